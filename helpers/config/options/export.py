"""Additional formats in which a finished run writes its weights."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option

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
