"""The text of a model card: metadata for the hub, validation images, and what a reader needs to use the model."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from helpers.config.files.prompt_library import parse_validation_sizes
from helpers.config.option import written
from helpers.config.options.model import WITHOUT
from helpers.config.options.output import COMFYUI_FILE
from helpers.reporting.events import RunStarted
from helpers.reporting.publish.license import UNKNOWN_ID, License

WRITTEN_BY = "<!-- Written by SimpleTuner at each checkpoint and at the end of a run; what you change here is lost. -->"

# Settings that a reader may want, none of which can hold a path or a secret.
SETTINGS_SHOWN: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_dora", "use_rslora"),
    "full": ("layer_freeze_strategy", "train_modules", "freeze_modules"),
    "optimizer": ("optimizer", "learning_rate", "lr_scheduler", "lr_warmup_steps", "max_grad_norm"),
    "run": ("train_batch_size", "gradient_accumulation_steps", "caption_dropout_probability", "seed"),
    "objective": ("timestep_sampling", "flow_shift", "loss_weighting", "loss_type"),
    "precision": ("mixed_precision", "base_model_precision"),
    "text": ("tokenizer_max_length", "sd3_t5_mask_behaviour", "train_text_encoder"),
    "ema": ("use_ema", "ema_decay"),
    "data": ("resolution", "resolution_type"),
}
# Shown by `tests/elsewhere/diffusers_versions.py`.
OLDEST_DIFFUSERS = "0.32"
WITHOUT_T5 = "It was trained without T5: zeros stand in its place, as in diffusers where `text_encoder_3` is None."
ONLY_FOR = {"lora": "lora", "full": "full"}


FOLDER = "validation_images"
PNG_ENTRY = "simpletuner"
"""The entry of a PNG's header that says what the image was drawn from."""

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class CardImage:
    """An image in the card. path: within the output folder, as in the repository."""

    path: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class CardContext:
    """What a card tells of. step: optimizer steps done. complete: whether the finished weights stand."""

    run: RunStarted
    license: License
    step: int
    complete: bool
    images: tuple[CardImage, ...]
    note: str
    repository: str

    @property
    def base_is_here(self) -> bool:
        """Whether the base is a folder or a file of this machine, whose path is nobody's business."""
        return Path(self.run.base_model).expanduser().exists()

    @property
    def base(self) -> str:
        """The base's hub id, or its folder's or file's name."""
        return Path(self.run.base_model).expanduser().resolve().name if self.base_is_here else self.run.base_model

    @property
    def title(self) -> str:
        return self.repository.rpartition("/")[2] or self.run.output_dir.resolve().name

    @property
    def is_lora(self) -> bool:
        return self.run.model_type == "lora"

    @property
    def is_without_t5(self) -> bool:
        return self.run.settings.get("model", {}).get("pretrained_t5_model_name_or_path") == WITHOUT

    @property
    def is_lycoris(self) -> bool:
        return self.is_lora and self.run.settings.get("lora", {}).get("lora_type") == "lycoris"


def card_text(made: CardContext) -> str:
    """The whole card, as Markdown with metadata in front."""
    chapters = (
        f"# {made.title}",
        made.note,
        _what_it_is(made),
        _progress(made),
        _images(made),
        *((_in_diffusers(made), _in_comfyui(made)) if made.complete else ()),
        _data(made),
        _settings(made),
        _license(made),
    )
    return "\n\n".join((_metadata(made), WRITTEN_BY, *filter(None, chapters))) + "\n"


def _metadata(made: CardContext) -> str:
    """The front matter. A JSON text is also one of YAML, whatever it holds."""
    values: dict[str, Any] = {
        "license": made.license.identifier,
        "license_name": made.license.name,
        "license_link": made.license.link,
        "base_model": "" if made.base_is_here else made.base,
        "base_model_relation": "" if made.base_is_here else "adapter" if made.is_lora else "finetune",
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["text-to-image", "diffusers", "stable-diffusion-3", "simpletuner", made.run.model_type],
    }
    lines = (f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in values.items() if value)
    return "\n".join(("---", *lines, "---"))


def _what_it_is(made: CardContext) -> str:
    base = f"`{made.base}`" if made.base_is_here else f"[{made.base}](https://huggingface.co/{made.base})"
    of = f", {made.run.base_variant}" if made.run.base_variant else ""
    trained = f"{made.run.trained}: " if made.run.trained else ""
    return f"Trained from {base}{of} with SimpleTuner: {trained}{made.run.trainable_parameters:,} trainable parameters."


def _progress(made: CardContext) -> str:
    if made.complete:
        return f"The run took {made.step:,} steps."
    return f"The run is at step {made.step:,} of {made.run.total_steps:,}: the finished weights are not here yet."


def _images(made: CardContext) -> str:
    if not made.images:
        return ""
    rows = (f"| ![]({quote(each.path)}) | {_in_table(each.prompt) or '(no prompt)'} |" for each in made.images)
    return "\n".join(
        ("## Images", "", "Drawn by the model itself, none of them chosen.", "", "| | prompt |", "|---|---|", *rows)
    )


def _in_diffusers(made: CardContext) -> str:
    said = made.run.settings.get("validation", {})
    width, height = parse_validation_sizes(str(said.get("validation_resolution", "1024x1024")))[0]
    seed = str(said.get("validation_seed") or "42")
    prompt = next((each.prompt for each in made.images if each.prompt), "a photograph of a lighthouse")
    length = made.run.settings.get("text", {}).get("tokenizer_max_length", 256)
    lines = (
        "import torch",
        "from diffusers import StableDiffusion3Pipeline",
        *_imports(made),
        "",
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        *_loading(made),
        "image = pipeline(",
        f"    prompt={prompt!r},",
        f"    negative_prompt={str(said.get('validation_negative_prompt', ''))!r},",
        f"    width={width},",
        f"    height={height},",
        f"    num_inference_steps={said.get('validation_num_inference_steps', 28)},",
        f"    guidance_scale={said.get('validation_guidance', 5.0)},",
        f"    max_sequence_length={length},",
        f'    generator=torch.Generator("cpu").manual_seed({seed}),',
        ").images[0]",
        'image.save("image.png")',
    )
    return "\n".join(
        (
            "## In diffusers",
            "",
            f"It needs diffusers {OLDEST_DIFFUSERS} or newer{' and lycoris-lora' if made.is_lycoris else ''}. "
            f"`max_sequence_length={length}` is the length it was trained with; diffusers' own default is 256.",
            *((WITHOUT_T5,) if made.is_without_t5 else ()),
            "",
            "```python",
            *lines,
            "```",
        )
    )


def _imports(made: CardContext) -> Iterator[str]:
    """What is imported besides, for adapters that diffusers does not know (`pip install lycoris-lora`)."""
    if made.is_lycoris and made.repository:
        yield "from huggingface_hub import hf_hub_download"
    if made.is_lycoris:
        yield "from lycoris import create_lycoris_from_weights"


def _loading(made: CardContext) -> Iterator[str]:
    """The lines that load the pipeline: from the hub, or, where it is not published, from the folder of this card."""
    model = made.base if made.is_lora else made.repository or made.run.result
    if made.is_lora and made.base_is_here:
        yield "# The base model's folder; its path is yours to fill in."
    without = "text_encoder_3=None, tokenizer_3=None, " if made.is_without_t5 else ""
    arguments = f"{model!r}, {without}torch_dtype=torch.bfloat16"
    yield f"pipeline = StableDiffusion3Pipeline.from_pretrained({arguments}).to(device)"
    if made.is_lycoris:
        downloaded = f"hf_hub_download({made.repository!r}, {made.run.result!r})"
        yield f"weights = {downloaded if made.repository else repr(made.run.result)}"
        yield "network, _ = create_lycoris_from_weights(1.0, weights, pipeline.transformer)"
        yield "network.apply_to()"
        yield "network.to(device)"
    elif made.is_lora:
        yield f"pipeline.load_lora_weights({made.repository or '.'!r}, weight_name={made.run.result!r})"


def _in_comfyui(made: CardContext) -> str:
    if made.is_lora:
        exported = made.run.settings.get("export", {}).get("export_comfyui", False)
        file = COMFYUI_FILE if exported else made.run.result
        copy = f"cp {file} ComfyUI/models/loras/{made.title}.safetensors"
        trained_text = made.run.settings.get("text", {}).get("train_text_encoder", False)
        node = "Load LoRA" if trained_text else "LoraLoaderModelOnly"
        how = f"Load {made.base} as usual, and put the node *{node}* between it and the sampler."
    else:
        folder = "" if made.repository else f"{made.run.result}/"
        weights = f"{folder}transformer/diffusion_pytorch_model.safetensors"
        copy = f"cp {weights} ComfyUI/models/diffusion_models/{made.title}.safetensors"
        how = f"Load it with the node *Load Diffusion Model*, and VAE and text encoders as for {made.base}."
    return "\n".join(("## In ComfyUI", "", "```bash", copy, "```", "", how))


def _data(made: CardContext) -> str:
    rows = (f"| {_in_table(name)} | {count:,} |" for name, count in made.run.datasets.items())
    return "\n".join(("## Trained on", "", "| dataset | images |", "|---|---|", *rows))


def _settings(made: CardContext) -> str:
    rows = (
        f"| {name} | {_in_table(written(said[name]))} |"
        for group, names in SETTINGS_SHOWN.items()
        if ONLY_FOR.get(group, made.run.model_type) == made.run.model_type
        for said in (made.run.settings.get(group, {}),)
        for name in names
        if said.get(name) not in (None, "")
    )
    return "\n".join(("## Settings", "", "| setting | value |", "|---|---|", *rows))


def _license(made: CardContext) -> str:
    said = made.license
    if said.identifier == UNKNOWN_ID:
        words = "Its license is the base model's, which that does not state here: find it out before you pass this on."
    else:
        name = said.name or said.identifier
        words = f"Its license is the base model's: {f'[{name}]({said.link})' if said.link else name}."
    return f"## License\n\n{words}"


def _in_table(text: str) -> str:
    """A text that stays within its cell, and is no markup."""
    for mark in "\\|<`*_[":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def last_images(output_dir: Path, *, step: int) -> tuple[CardImage, ...]:
    """The first few images of the last step up to `step` that has any; of the untrained base none."""
    by_step = {
        int(folder.name.removeprefix("step_")): folder
        for folder in (output_dir / FOLDER).glob("step_*")
        if folder.name.removeprefix("step_").isdecimal()
    }
    for last in sorted((each for each in by_step if 0 < each <= step), reverse=True):
        files = sorted(by_step[last].glob("*.png"))[:SHOWN]
        if files:
            return tuple(
                CardImage(path=file.relative_to(output_dir).as_posix(), prompt=_prompt_of(file)) for file in files
            )
    return ()


def _prompt_of(file: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        return str(json.loads(image.info.get(PNG_ENTRY, "{}")).get("prompt", ""))
