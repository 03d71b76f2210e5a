"""Whether, where and how to publish the result of a run on the Hugging Face hub."""

from dataclasses import dataclass
from pathlib import Path

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class PublishingOptions:
    """Upload to the Hugging Face hub, and the model card."""

    push_to_hub: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Upload the finished weights and their model card to the Hugging Face hub. Needs a login (`hf auth "
        "login`) and HUB_MODEL_NAME.",
    )
    push_checkpoints_to_hub: bool = option(
        False,
        env="PUSH_CHECKPOINTS",
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Also upload each checkpoint during training. Checkpoints that are deleted locally stay on the hub.",
    )
    hub_model_id: str | None = option(
        None,
        env="HUB_MODEL_NAME",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Repository on the hub: `name`, or `owner/name` for an organization. Created if it does not exist.",
    )
    hub_private: bool = option(
        True,
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Keep the repository private. `false` makes it public.",
    )
    model_card_note: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Text to put at the start of the model card.",
    )


COMFYUI_FILE = "comfyui_lora.safetensors"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Additional files to write at the end of a run; `python -m helpers.convert` makes the same files later."""

    export_comfyui: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Also write the LoRA as `comfyui_lora.safetensors`, with alpha and with the key names of the original "
        "layout, which ComfyUI and kohya's tools use. ComfyUI needs this file for full differences from LyCORIS.",
    )
    export_merged: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Also write the base model with the LoRA merged in, as the folder `pipeline`, which diffusers opens. It "
        "has the size and dtype of the base model.",
    )
    export_single_file: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Also write the model as `single_file.safetensors`: transformer, with the LoRA merged in, and VAE, in "
        "the original layout that ComfyUI and diffusers' `from_single_file` open.",
    )


TRACKERS = ("wandb", "tensorboard")
LOG_LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True, kw_only=True)
class ReportingOptions:
    """Trackers, log files, console output and webhooks."""

    report_to: str = option(
        "none",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Trackers to send metrics and images to: `none`, `wandb`, `tensorboard`, or a comma-separated list.",
    )
    tracker_project_name: str = option(
        "simpletuner",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Project name in wandb.",
    )
    tracker_run_name: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Name of the run in trackers. If not set: the start time.",
    )
    logging_dir: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Folder for log files and the trackers' files. A relative path starts in the output folder. If not set: "
        "`logs` in the output folder.",
    )
    log_level: str = option(
        "info",
        choices=LOG_LEVELS,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Lowest level to show on the console: `debug` (with messages of libraries), `info`, `warning` or `error`.",
    )
    webhook_config: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="JSON file that sets where to send messages about the run: Discord or any URL.",
    )

    @property
    def trackers(self) -> tuple[str, ...]:
        """The trackers that are set."""
        words = (word.strip().lower() for word in self.report_to.split(","))
        return tuple(dict.fromkeys(word for word in words if word not in ("", "none")))

    def folder(self, output_dir: str) -> Path:
        """The folder of log files, in a run with this `output_dir`."""
        return Path(output_dir).expanduser() / Path(self.logging_dir or "logs").expanduser()
