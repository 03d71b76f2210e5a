"""Loads a model block by block, each quantized before the next is read, so that it is never in memory at full size."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.errors import ModelError
from helpers.models.formats.safetensors import LazyTensor, Opened
from helpers.models.quantization import UNQUANTIZED, layers_to_quantize, quantize

Weights = Callable[[], AbstractContextManager[Mapping[str, LazyTensor]]]
"""Opens a component's files: its tensors by name, memory-mapped until the context ends."""


@dataclass(frozen=True, kw_only=True)
class WeightFormat:
    """How a component is stored: its dtype, quantized to `precision` except for the layers in `keep` (shell patterns).

    device: where the component is stored and computes. quantize_via: `cpu`, or `accelerator` for that device.
    offloaded: blocks that stay in CPU memory, see performance/offload.py.
    """

    dtype: torch.dtype
    device: torch.device
    precision: str = UNQUANTIZED
    quantize_via: str = "cpu"
    keep: tuple[str, ...] = ()
    offloaded: tuple[str, ...] = ()

    @property
    def quantized_on(self) -> torch.device:
        """The device that quantizes."""
        return self.device if self.quantize_via == "accelerator" else torch.device("cpu")


def weights_of(open_part: Callable[[], AbstractContextManager[Opened]]) -> Weights:
    """The tensors that `open_part` opens, without the headers."""

    @contextmanager
    def weights() -> Iterator[Mapping[str, LazyTensor]]:
        with open_part() as (tensors, _):
            yield tensors

    return weights


def load_weights(model: nn.Module, weights: Weights, form: WeightFormat, *, name: str) -> nn.Module:
    """Load weights into a model on the meta device, frozen, in eval mode; raises ModelError for a missing tensor.

    The files are reopened for each block, because pages of a mapped file count as the process's memory until it is
    closed. The result is the same as quantizing the whole model at once.
    """
    unkept = [each for each, buffer in model.named_buffers() if buffer.is_meta and each not in model.state_dict()]
    assert not unkept, f"{unkept[0]} of the {name} is not stored in any file"
    quantized = set(layers_to_quantize(model, form.precision, keep=form.keep))
    for block, tensors in _blocks(model).items():
        home = torch.device("cpu") if block in form.offloaded else form.device
        with weights() as found:
            for names in tensors:
                tensor = _read(found, names, part=name)
                tensor = tensor.to(form.dtype) if tensor.is_floating_point() else tensor
                to_quantize = _layer_of(names[0]) in quantized
                _put(model, names, tensor.to(form.quantized_on if to_quantize else home))
        layers = list(dict.fromkeys(_layer_of(names[0]) for names in tensors if _layer_of(names[0]) in quantized))
        quantize(model, form.precision, layers=layers)
        for layer in layers:
            model.get_submodule(layer).to(home)
    return model.eval().requires_grad_(False)


def _blocks(model: nn.Module) -> dict[str, list[tuple[str, ...]]]:
    """The names of every stored tensor (several if layers share it), by block.

    A block is the name up to its first number, else the layer itself.
    """
    shared: dict[int, list[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        shared.setdefault(id(tensor), []).append(name)
    blocks: dict[str, list[tuple[str, ...]]] = {}
    for names in shared.values():
        words = names[0].split(".")
        number = next((place for place, word in enumerate(words) if word.isdigit()), len(words) - 2)
        blocks.setdefault(".".join(words[: number + 1]), []).append(tuple(names))
    return blocks


def _layer_of(name: str) -> str:
    return name.rpartition(".")[0]


def _read(found: Mapping[str, LazyTensor], names: Sequence[str], *, part: str) -> Tensor:
    stored = next((found[name] for name in names if name in found), None)
    if stored is None:
        raise ModelError(f"The weights of the {part} lack the tensor {names[0]}; is the download complete?")
    return stored.make()


def _put(model: nn.Module, names: Sequence[str], tensor: Tensor) -> None:
    """Set a parameter or buffer under each of its names."""
    parameter = nn.Parameter(tensor, requires_grad=False)
    for name in names:
        owner, _, leaf = name.rpartition(".")
        module = model.get_submodule(owner)
        before = getattr(module, leaf)
        if before.shape != tensor.shape:
            shapes = f"{list(tensor.shape)}, but its config requires {list(before.shape)}"
            raise ModelError(f"The tensor {name} has the shape {shapes}; weights and config do not match.")
        setattr(module, leaf, parameter if isinstance(before, nn.Parameter) else tensor)
