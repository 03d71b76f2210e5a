"""A whole SD3 as one file in the original layout: the transformer and the VAE, as Stability publishes its models."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from helpers.models.lora_files import Pair, merged, of_text_encoder
from helpers.models.protocols import ModelParts
from helpers.models.sd3 import original_layout, original_vae
from helpers.models.sd3.original_config import transformer_in
from helpers.models.sd3.parts import weight_files
from helpers.models.streaming import Weights
from helpers.models.tensor_files import Opened, Planned, all_opened, write_tensors

TELLING = "joint_blocks.0."
CLIPS = (
    ("text_encoder.", "text_encoders.clip_l.transformer."),
    ("text_encoder_2.", "text_encoders.clip_g.transformer."),
)


def is_single_file(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an SD3 in the original layout, its prefix there or not."""
    return any(name.removeprefix(original_layout.PREFIX).startswith(TELLING) for name in names)


@contextmanager
def open_base(parts: ModelParts) -> Iterator[Opened]:
    """See `FamilyFiles`: the transformer in a folder of diffusers layout, or in one file."""
    if parts.transformer.is_file():
        with open_single_file(parts.transformer) as found:
            yield found
    else:
        with all_opened(weight_files(parts.transformer, parts.weights_variant)) as found:
            yield found


def transformer_weights(parts: ModelParts) -> Weights:
    """The base's transformer, to be read block by block."""

    @contextmanager
    def weights() -> Iterator[Mapping[str, Planned]]:
        with open_base(parts) as (tensors, _):
            yield tensors

    return weights


@contextmanager
def open_single_file(path: Path) -> Iterator[Opened]:
    """See `FamilyFiles`. Some files hold nothing but the transformer, without a prefix."""
    with all_opened([path]) as (tensors, said):
        yield original_layout.to_diffusers(transformer_in(tensors)), said


def write_single_file(
    weights: Mapping[str, Planned],
    parts: ModelParts,
    path: Path,
    *,
    text: Mapping[str, Pair],
    metadata: Mapping[str, str],
) -> None:
    """See `FamilyFiles`; each tensor in the number format that it has.

    The text encoders are in it only where a LoRA is merged into the CLIPs: else they are the same for every SD3.
    """
    with ExitStack() as stack:
        vae, _ = stack.enter_context(all_opened(weight_files(parts.vae, parts.weights_variant)))
        found = {original_vae.PREFIX: original_vae.vae_to_original(vae)}
        found[original_layout.PREFIX] = original_layout.to_original(weights)
        for (ours, prefix), folder in zip(CLIPS, parts.text_encoders, strict=False):
            if text:
                clip, _ = stack.enter_context(all_opened(weight_files(folder, parts.weights_variant)))
                found[prefix] = merged(clip, of_text_encoder(text, ours))
        tensors = {prefix + name: each for prefix, mine in found.items() for name, each in mine.items()}
        write_tensors(path, tensors, metadata=metadata)
