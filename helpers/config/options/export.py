"""In which forms a finished run hands on its weights, beside its own."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option

COMFYUI_FILE = "comfyui_lora.safetensors"


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What a finished run writes besides its LoRA or its pipeline; `python -m helpers.convert` makes the same later."""

    export_comfyui: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Write the LoRA once more, as `comfyui_lora.safetensors`: in the names of the original layout, which "
        "ComfyUI and kohya's programs use, with alpha. ComfyUI needs it for LyCORIS's full differences.",
    )
    export_merged: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Write the base with the LoRA merged in, as the folder `pipeline`, which diffusers opens. As large as the "
        "base, and in its dtype.",
    )
    export_single_file: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Write the whole model as `single_file.safetensors`: transformer, the LoRA merged in, and VAE in the "
        "original layout, which ComfyUI and diffusers' `from_single_file` open.",
    )
