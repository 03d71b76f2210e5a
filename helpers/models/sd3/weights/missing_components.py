"""Reports all missing components of a base model, with the settings that provide them."""

from collections.abc import Sequence

from helpers.errors import ModelError
from helpers.models.sd3.weights.original.file import CALLED, TRANSFORMER, VAE
from helpers.models.sd3.weights.original.text import T5

BASE = "MODEL_NAME"
PARTS_OPTION = "pretrained_parts_model_name_or_path"
NAMED = {
    VAE: "pretrained_vae_model_name_or_path",
    "text_encoder": "pretrained_clip_l_model_name_or_path",
    "text_encoder_2": "pretrained_clip_g_model_name_or_path",
    T5: "pretrained_t5_model_name_or_path",
}
FILES = {
    VAE: "a VAE's .safetensors file",
    "text_encoder": "clip_l.safetensors",
    "text_encoder_2": "clip_g.safetensors",
    T5: "t5xxl_fp16.safetensors or similar",
}


def refuse_missing(name: str, missing: Sequence[str], *, others: str | None) -> None:
    """Raise ModelError if components are missing from both the base and `others`, a complete SD3."""
    if not missing:
        return
    lines = [f"  {part} ({CALLED[part]}): {_from(part)}" for part in missing]
    if others is None and missing != [TRANSFORMER]:
        lines.append(f"  all but the transformer: set {PARTS_OPTION.upper()} to a folder or hub id of a complete SD3")
    subject = f"{name} with {others} lacks" if others else f"{name} lacks"
    raise ModelError(f"{subject} {', '.join(missing)}. Where they can come from:\n" + "\n".join(lines))


def _from(part: str) -> str:
    if part == TRANSFORMER:
        return f"name a base in {BASE} that has one"
    without = ", or set it to none to train without T5" if part == T5 else ""
    return f"set {NAMED[part].upper()} to {FILES[part]}, a folder or a hub id{without}"
