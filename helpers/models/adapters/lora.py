"""Attaches a LoRA to any denoiser, and saves and loads it as the file that other programs open."""

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path

import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions
from helpers.errors import ModelError
from helpers.models.adapters.dora import learn_magnitudes
from helpers.models.adapters.lora_init import OpenBase, init_from_base
from helpers.models.adapters.trainable import Trainable
from helpers.models.contexts import hide_bitsandbytes
from helpers.models.formats.lora import (
    DIFFUSERS_ENTRY,
    DOWN,
    EXPORT_PREFIX,
    MAGNITUDE,
    TEXT_PREFIXES,
    UP,
    Pair,
    header_entry,
    of_one_rank,
)
from helpers.models.formats.safetensors import copy_tensors, write_tensors

ADAPTER = "default"
LORA_FILE = "pytorch_lora_weights.safetensors"
# In a checkpoint, the initial values of an adapter that was initialized from the base's weights.
START_FILE = "lora_start.safetensors"


def split_names(text: str) -> list[str]:
    """The names in a comma list."""
    return [name.strip() for name in text.split(",") if name.strip()]


def match_modules(names: Sequence[str], wanted: Iterable[str], *, option: str) -> list[str]:
    """The layers or weights among `names` that are at or below a wanted name or shell pattern of name segments.

    `to_q` matches every layer of that name, `transformer_blocks.0.attn` one attention, `transformer_blocks.1?` ten
    blocks. Raises ModelError for a name without a match, with `option` and similar names.
    """
    chosen: set[str] = set()
    for name in wanted:
        hits = {each for each in names if fnmatchcase(f".{each}.", f"*.{name}.*")}
        if not hits:
            segments = {segment for each in names for segment in each.split(".")}
            near = difflib.get_close_matches(name, sorted({*segments, *names}), n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(sorted(segments)[:20])} …"
            raise ModelError(f"{option} names `{name}`, but the model has no such layer: {hint}")
        chosen |= hits
    return [each for each in names if each in chosen]


def make_lora(
    denoiser: nn.Module,
    *,
    modules: Sequence[str],
    lora: LoraOptions,
    seed: int,
    base: OpenBase | None = None,
    pairs: Mapping[str, Pair] | None = None,
) -> Trainable:
    """Attach a LoRA to the named layers of a frozen denoiser, see `attach_lora`; only the LoRA is trained.

    base: the denoiser's files, for LoftQ. pairs: the matrices of the file `init_lora`, to start from.
    """
    weights = attach_lora(denoiser, lora=lora, modules=modules, seed=seed)
    if pairs:
        assert lora.init_file is not None, "pairs come from init_lora"
        load_initial_weights(lora.init_file, pairs, weights=weights, lora=lora)
    start = init_from_base(denoiser, kind=lora.lora_init_type, base=base, adapter=ADAPTER, seed=seed)

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        save_lora(folder / LORA_FILE, weights, lora=lora, metadata=metadata)
        if start:
            write_tensors(folder / START_FILE, start, metadata={})

    def load(folder: Path) -> None:
        load_lora(folder / LORA_FILE, into=weights)
        if start:
            copy_tensors(folder / START_FILE, into=start, fix="Set lora_init_type back to what it was saved with.")

    def export(file: Path, *, metadata: Mapping[str, str]) -> None:
        if start:
            twice = replace(lora, lora_rank=2 * lora.lora_rank, lora_alpha=2.0 * lora.lora_rank, use_rslora=False)
            difference = _without_start(weights, start, strength=lora.scaling)
            save_lora(file, difference, lora=twice, metadata=metadata, portable=True)
        else:
            save_lora(file, weights, lora=lora, metadata=metadata, portable=True)

    return Trainable(
        summary=f"a {lora.adapter_name} of rank {lora.lora_rank} on {len(modules)} layers",
        weights=weights,
        metadata=_facts(lora),
        save=save,
        load=load,
        as_base=lora_disabled,
        output_name=LORA_FILE,
        export=export,
    )


def _facts(lora: LoraOptions) -> dict[str, str]:
    return {
        "adapter": lora.adapter_name,
        "lora_rank": str(lora.lora_rank),
        "lora_alpha": str(lora.alpha),
        "lora_target": lora.lora_target,
        "lora_init_type": lora.lora_init_type,
    }


def linear_modules(denoiser: nn.Module) -> list[str]:
    """The names of all layers that can have a LoRA, including quantized ones."""
    return [name for name, module in denoiser.named_modules() if isinstance(module, nn.Linear)]


def attach_lora(
    denoiser: nn.Module, *, lora: LoraOptions, modules: Sequence[str], seed: int
) -> dict[str, nn.Parameter]:
    """Add a LoRA to the named layers of a frozen denoiser, in place; returns its tensors by their exported names.

    h = W x + s B A x, s = alpha / rank (Hu et al. 2021, section 4.1) or alpha / sqrt(rank) (rsLoRA: Kalajdzievski 2023,
    theorem 3.2), with A initialized as a linear layer's weights and B zero, both fp32 for every base; A depends only
    on `seed` and the order of modules. DoRA also trains the norms of the rows, see `Magnitude`. Only these tensors
    require gradients afterwards. Raises ModelError if there is no layer to train.
    """
    if not modules:
        raise ModelError("lora_target leaves no layer to train; choose `attention`, or name layers that the model has.")
    from peft import LoraConfig, inject_adapter_in_model

    denoiser.requires_grad_(False)
    ranks = layer_ranks(modules, lora)
    config = LoraConfig(
        rank_pattern=ranks,
        alpha_pattern={name: alpha_of(rank, lora) for name, rank in ranks.items()},
        r=lora.lora_rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type]  # peft's annotation is int, but it divides
        lora_dropout=lora.lora_dropout,
        use_rslora=lora.use_rslora,
        use_dora=lora.use_dora,
        target_modules=list(modules),
    )
    with torch.random.fork_rng(devices=[]), hide_bitsandbytes():
        inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    _leave_casting_to_autocast(denoiser)
    _init_weights(denoiser, kind=lora.lora_init_type, seed=seed)
    if lora.use_dora:
        learn_magnitudes(denoiser, adapter=ADAPTER)
    return _adapter_weights(denoiser)


def _leave_casting_to_autocast(denoiser: nn.Module) -> None:
    """Keep peft from copying each layer's bf16 input to fp32, only for autocast to copy it back to bf16.

    The result is the same, without two copies of every input, one of which autograd would save.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    def cast(hidden: Tensor, dtype: torch.dtype) -> Tensor:
        fits = hidden.dtype == dtype or torch.is_autocast_enabled(hidden.device.type)
        return hidden if fits else hidden.to(dtype)

    for layer in [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]:
        layer._cast_input_dtype = cast  # type: ignore[method-assign]  # peft's own switch ignores autocast


def _init_weights(denoiser: nn.Module, *, kind: str, seed: int) -> None:
    """Replace peft's random initialization by one that depends only on `seed`."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in denoiser.named_parameters():
        if f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name:
            start = torch.zeros(parameter.shape)
            if ".lora_A." in name and kind == "gaussian":
                nn.init.normal_(start, std=1 / len(start), generator=generator)
            elif ".lora_A." in name:
                nn.init.kaiming_uniform_(start, a=math.sqrt(5), generator=generator)
            parameter.data = start.to(parameter.device)


def _adapter_weights(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's tensors by their exported names, all made trainable."""
    weights = {}
    for name, parameter in denoiser.named_parameters():
        layer, mark, part = name.partition(".lora_")
        if mark:
            part = part.replace(f".{ADAPTER}", "").replace("magnitude_vector.weight", "magnitude_vector")
            weights[f"{EXPORT_PREFIX}{layer}.lora_{part}"] = parameter.requires_grad_(True)
    return weights


def layer_ranks(modules: Sequence[str], lora: LoraOptions) -> dict[str, int]:
    """The ranks of layers in `lora_ranks`; raises ModelError for a name that matches no layer."""
    return {layer: rank for name, rank in lora.ranks for layer in match_modules(modules, [name], option="lora_ranks")}


def alpha_of(rank: int, lora: LoraOptions) -> float:
    """The alpha that gives a layer of this rank the run's scaling."""
    if rank == lora.lora_rank:
        return lora.alpha
    return lora.scaling * (math.sqrt(rank) if lora.use_rslora else rank)


@contextmanager
def lora_disabled(denoiser: nn.Module) -> Iterator[None]:
    """A context in which `denoiser`, or its wrapper, predicts without the adapter."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [module for module in denoiser.modules() if isinstance(module, BaseTunerLayer)]
    assert layers, "there is no adapter to disable"
    # peft's public switch would also toggle requires_grad, and lose gradients.
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def save_lora(
    path: Path,
    tensors: Mapping[str, Tensor],
    *,
    lora: LoraOptions,
    metadata: Mapping[str, str],
    portable: bool = False,
) -> None:
    """Write an adapter as one safetensors file that diffusers loads, in fp32, with `metadata` in its header.

    Alpha is in the header, where diffusers looks. Other programs (ComfyUI) look for a tensor that diffusers rejects,
    and without it assume alpha = rank. `portable` multiplies the scaling into B instead, sets alpha = rank, and pads
    all layers to one rank, so that every program and every version of diffusers generates the same. Do not use it for
    a file that training continues from, because the product is rounded.
    """
    scale = lora.scaling if portable else 1.0
    content = {
        name: (tensor.detach().float() * (scale if ".lora_B." in name else 1.0)).cpu()
        for name, tensor in tensors.items()
    }
    if portable:
        content = of_one_rank(content)
    ranks = {
        name.removeprefix(EXPORT_PREFIX).split(".lora_A.")[0]: len(tensor)
        for name, tensor in content.items()
        if ".lora_A." in name
    }
    entry = header_entry(
        ranks,
        alphas={} if portable else {layer: alpha_of(rank, lora) for layer, rank in ranks.items()},
        use_dora=lora.use_dora,
        use_rslora=lora.use_rslora and not portable,
    )
    write_tensors(path, content, metadata={**metadata, DIFFUSERS_ENTRY: entry})


def _without_start(weights: Mapping[str, Tensor], start: Mapping[str, Tensor], *, strength: float) -> dict[str, Tensor]:
    """s (B A - B0 A0) as one adapter of twice the rank and scaling 1, for the unchanged base."""
    content = {}
    for name, tensor in weights.items():
        began = start[name.removeprefix(EXPORT_PREFIX)]
        if ".lora_A." in name:
            content[name] = torch.cat([tensor, began])
        else:
            content[name] = torch.cat([tensor, -began], dim=1) * strength
    return content


def load_initial_weights(
    path: Path,
    pairs: Mapping[str, Pair],
    *,
    weights: Mapping[str, nn.Parameter],
    lora: LoraOptions,
    option: str = "lora_target",
) -> None:
    """Initialize an adapter from a file's pairs with their original strength; raises ModelError if they do not fit."""
    saved: dict[str, Tensor] = {}
    for layer, pair in pairs.items():
        name = layer if layer.startswith(TEXT_PREFIXES) else EXPORT_PREFIX + layer
        saved[name + DOWN] = pair.down
        saved[name + UP] = pair.up.float() * (pair.alpha / pair.rank / lora.scaling)
        if pair.magnitude is not None:
            saved[name + MAGNITUDE] = pair.magnitude
    _copy_into(weights, saved, path=path, option=option)


def load_lora(path: Path, *, into: Mapping[str, nn.Parameter]) -> None:
    """Copy a saved adapter's tensors by name into an attached adapter; raises ModelError if they do not match."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        saved = load_file(path)
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read as an adapter: {error}") from error
    _copy_into(into, saved, path=path)


def _copy_into(
    into: Mapping[str, nn.Parameter], saved: Mapping[str, Tensor], *, path: Path, option: str = "lora_target"
) -> None:
    odd = sorted(saved.keys() ^ into.keys())
    if odd:
        has, lacks = ("the file", "the run's adapter") if odd[0] in saved else ("the run's adapter", "the file")
        option = "use_dora" if odd[0].endswith(MAGNITUDE) else option
        raise ModelError(
            f"{path} belongs to another adapter: {has} has {odd[0]}, {lacks} does not. Set {option} to the value "
            "that the file was trained with."
        )
    for name, parameter in into.items():
        if saved[name].shape != parameter.shape:
            raise ModelError(
                f"{path} holds {name} as {list(saved[name].shape)}, but the run's is {list(parameter.shape)}: set "
                "lora_rank, or lora_ranks for some layers, to the values that the file was trained with."
            )
        parameter.data.copy_(saved[name])
