"""A whole SD3 as one file in the original layout: the transformer and the VAE, as Stability publishes its models."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from helpers.models.protocols import ModelParts
from helpers.models.sd3 import original_layout, original_vae
from helpers.models.sd3.parts import weight_files
from helpers.models.tensor_files import Opened, Planned, all_opened, write_tensors

TELLING = "joint_blocks.0."


def is_single_file(names: Iterable[str]) -> bool:
    """Whether tensors with these names are an SD3 in the original layout, its prefix there or not."""
    return any(name.removeprefix(original_layout.PREFIX).startswith(TELLING) for name in names)


@contextmanager
def open_base(parts: ModelParts) -> Iterator[Opened]:
    """See `FamilyFiles`: the transformer in a folder of diffusers layout."""
    with all_opened(weight_files(parts.transformer, parts.weights_variant)) as found:
        yield found


@contextmanager
def open_single_file(path: Path) -> Iterator[Opened]:
    """See `FamilyFiles`. Some files hold nothing but the transformer, without a prefix."""
    with all_opened([path]) as (tensors, said):
        prefix = original_layout.PREFIX if any(name.startswith(original_layout.PREFIX) for name in tensors) else ""
        mine = {name.removeprefix(prefix): each for name, each in tensors.items() if name.startswith(prefix)}
        yield original_layout.to_diffusers(mine), said


def write_single_file(
    weights: Mapping[str, Planned], parts: ModelParts, path: Path, *, metadata: Mapping[str, str]
) -> None:
    """See `FamilyFiles`; each tensor in the number format that it has.

    The text encoders are not in it: they are the same for every SD3, and larger than it.
    """
    with all_opened(weight_files(parts.vae, parts.weights_variant)) as (vae, _):
        model = original_layout.to_original(weights)
        tensors = {original_layout.PREFIX + name: each for name, each in model.items()}
        tensors |= {original_vae.PREFIX + name: each for name, each in original_vae.vae_to_original(vae).items()}
        write_tensors(path, tensors, metadata=metadata)
