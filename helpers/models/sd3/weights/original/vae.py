"""Renames a VAE's tensors between the original layout and diffusers', one tensor at a time.

The original numbers the decoder's blocks from the image, and stores attention as 1x1 convolutions.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import product

from torch import Tensor

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor

PREFIX = "first_stage_model."
DIFFUSERS_BLOCKS, ORIGINAL_BLOCKS = "encoder.down_blocks.", "encoder.down."
RESNETS_AT_MOST = 3
RESNET = (("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"))
SHORTCUT = ("nin_shortcut", "conv_shortcut")
ATTENTION = (("norm", "group_norm"), ("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0"))
AROUND = (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out"))
KINDS = (".weight", ".bias")


def vae_to_original(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A VAE's tensors by the original names, without prefix; raises ModelError for unknown tensors."""
    left, found = dict(tensors), {}
    for original, ours in _names(_blocks(tensors, of=DIFFUSERS_BLOCKS)):
        if ours in left:
            found[original] = _as_convolution(left.pop(ours)) if _is_projection(original) else left.pop(ours)
    _nothing_left(left)
    return found


def vae_to_diffusers(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A VAE's tensors by diffusers' names; `tensors` without prefix, by the original names or diffusers' own.

    Raises ModelError for unknown or missing tensors.
    """
    if any(name.startswith(DIFFUSERS_BLOCKS) for name in tensors):
        vae_to_original(tensors)
        _nothing_lacks(tensors)
        return dict(tensors)
    left, found = dict(tensors), {}
    for original, ours in _names(_blocks(tensors, of=ORIGINAL_BLOCKS)):
        if original in left:
            found[ours] = _as_matrix(left.pop(original)) if _is_projection(original) else left.pop(original)
    _nothing_left(left)
    _nothing_lacks(found)
    return found


def resnets_in(names: Iterable[str]) -> int:
    """The number of resnets in each encoder block, by diffusers' names; decoder blocks have one more."""
    return sum(name.startswith("encoder.down_blocks.0.resnets.") and name.endswith(".conv1.weight") for name in names)


def _blocks(names: Mapping[str, object], *, of: str) -> int:
    return 1 + max((int(name.removeprefix(of).split(".")[0]) for name in names if name.startswith(of)), default=-1)


def _names(blocks: int) -> Iterator[tuple[str, str]]:
    """The original and diffusers' name of every tensor that a VAE with `blocks` blocks may have."""
    return ((original + kind, ours + kind) for (original, ours), kind in product(_layers(blocks), KINDS))


def _layers(blocks: int) -> Iterator[tuple[str, str]]:
    for side in ("encoder", "decoder"):
        yield from _under(side, side, AROUND)
        yield from _under(f"{side}.mid.attn_1", f"{side}.mid_block.attentions.0", ATTENTION)
        for number in (0, 1):
            yield from _resnet(f"{side}.mid.block_{number + 1}", f"{side}.mid_block.resnets.{number}")
    for number in range(blocks):
        down, up = f"encoder.down.{number}", f"decoder.up.{blocks - 1 - number}"
        yield f"{down}.downsample.conv", f"encoder.down_blocks.{number}.downsamplers.0.conv"
        yield f"{up}.upsample.conv", f"decoder.up_blocks.{number}.upsamplers.0.conv"
        for each in range(RESNETS_AT_MOST):
            yield from _resnet(f"{down}.block.{each}", f"encoder.down_blocks.{number}.resnets.{each}")
            yield from _resnet(f"{up}.block.{each}", f"decoder.up_blocks.{number}.resnets.{each}")


def _resnet(original: str, ours: str) -> Iterator[tuple[str, str]]:
    return _under(original, ours, (*RESNET, SHORTCUT))


def _under(original: str, ours: str, names: tuple[tuple[str, str], ...]) -> Iterator[tuple[str, str]]:
    return ((f"{original}.{first}", f"{ours}.{second}") for first, second in names)


def _is_projection(original: str) -> bool:
    return ".attn_1." in original and not original.endswith(".bias") and ".norm." not in original


def _as_convolution(tensor: LazyTensor) -> LazyTensor:
    """A matrix [C, C] as [C, C, 1, 1]."""
    return _reshaped(tensor, (*tensor.shape, 1, 1))


def _as_matrix(tensor: LazyTensor) -> LazyTensor:
    """[C, C, 1, 1] as a matrix [C, C]; some files already have a matrix."""
    return _reshaped(tensor, tensor.shape[:2])


def _reshaped(tensor: LazyTensor, shape: tuple[int, ...]) -> LazyTensor:
    def make() -> Tensor:
        return tensor.make().reshape(shape)

    return replace(tensor, shape=shape, make=make)


def _nothing_left(left: Mapping[str, LazyTensor]) -> None:
    if left:
        raise ModelError(f"The VAE has a tensor {min(left)}, which is unknown in SD3's.")


def _nothing_lacks(found: Mapping[str, LazyTensor]) -> None:
    blocks, resnets = _blocks(found, of=DIFFUSERS_BLOCKS), resnets_in(found)
    for original, ours in _names(blocks):
        if ours not in found and not _may_lack(ours, blocks=blocks, resnets=resnets):
            raise ModelError(f"The VAE lacks the tensor {original}; is the download complete?")


def _may_lack(name: str, *, blocks: int, resnets: int) -> bool:
    """Whether a tensor is optional in a VAE with `blocks` blocks of `resnets` resnets (one more in the decoder)."""
    words = name.split(".")
    if "conv_shortcut" in words or (f"{blocks - 1}" == words[2] and "samplers" in words[3]):
        return True
    return "blocks" in words[1] and words[3] == "resnets" and int(words[4]) >= resnets + (words[0] == "decoder")
