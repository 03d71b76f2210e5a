"""The file a run is for: the trained LoRA as other programs open it, telling where it comes from."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from helpers import __version__
from helpers.config.options.model import LoraOptions, TextOptions
from helpers.models.protocols import ModelFamily, ModelParts
from helpers.training.whole_files import write_whole

WEIGHTS = "pytorch_lora_weights.safetensors"


def provenance(parts: ModelParts, *, lora: LoraOptions, text: TextOptions) -> dict[str, str]:
    """What the file's header says of its making, besides the step; free of paths on this machine.

    The prompt length matters to whoever draws with it: diffusers' own default of 256 is not what was trained.
    """
    return {
        "base_model": Path(parts.name).name if Path(parts.name).expanduser().is_dir() else parts.name,
        "base_model_variant": parts.variant,
        "base_model_identity": parts.identity,
        "lora_rank": str(lora.lora_rank),
        "lora_alpha": str(lora.alpha),
        "lora_target": lora.lora_target,
        "tokenizer_max_length": str(text.tokenizer_max_length),
        "sd3_t5_mask_behaviour": text.sd3_t5_mask_behaviour,
        "program": f"SimpleTuner {__version__}",
    }


def export_lora(
    output_dir: Path,
    *,
    family: ModelFamily,
    tensors: Mapping[str, Tensor],
    lora: LoraOptions,
    metadata: Mapping[str, str],
    step: int,
) -> Path:
    """Write the final weights, in the place of an earlier run's; returns the file. Only the first rank may call it."""

    def write(path: Path) -> None:
        family.save_lora(path, tensors, lora=lora, metadata={**metadata, "step": str(step)}, portable=True)

    return write_whole(output_dir / WEIGHTS, write)
