"""Attaches LyCORIS adapters (LoKr, LoHa, full differences) and saves them in the library's file format."""

import fnmatch
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.config.files.lycoris import LycorisConfig
from helpers.config.suggestions import did_you_mean
from helpers.errors import ModelError
from helpers.models.adapters.lora import LORA_FILE
from helpers.models.adapters.trainable import Trainable
from helpers.models.formats.safetensors import copy_tensors, opened, write_tensors
from helpers.models.quantization import is_quantized

CHECKPOINT_FILE = "lycoris.safetensors"
CONFIG_ENTRY = "lycoris_config"
NAME = "lycoris"


def make_lycoris(denoiser: nn.Module, *, config: LycorisConfig, seed: int) -> Trainable:
    """Attach the adapter in `config` to a frozen denoiser, see `attach_lycoris`; only the adapter is trained."""
    network = attach_lycoris(denoiser, config=config, seed=seed)
    weights = dict(network.named_parameters())
    facts = {"adapter": f"LyCORIS {config.algo}", CONFIG_ENTRY: config.text}

    def save(folder: Path, *, metadata: Mapping[str, str]) -> None:
        write_tensors(folder / CHECKPOINT_FILE, weights, metadata={**metadata, CONFIG_ENTRY: config.text})

    def load(folder: Path) -> None:
        file = folder / CHECKPOINT_FILE
        fix = "Set lora_type and the content of lycoris_config back to what it was saved with."
        with opened(file) as saved:
            before = (saved.metadata() or {}).get(CONFIG_ENTRY, "")
        if before != config.text:
            raise ModelError(f"{file} was trained with another lycoris_config: {before}. {fix}")
        copy_tensors(file, into=weights, fix=fix)

    def export(file: Path, *, metadata: Mapping[str, str]) -> None:
        write_tensors(file, exported(network), metadata=metadata)

    return Trainable(
        summary=f"a LyCORIS ({config.algo}) on {len(network.loras)} layers",
        weights=weights,
        metadata=facts,
        save=save,
        load=load,
        as_base=without_lycoris,
        output_name=LORA_FILE,
        export=export,
    )


def attach_lycoris(denoiser: nn.Module, *, config: LycorisConfig, seed: int) -> Any:
    """Add LyCORIS modules to the layers that the preset selects, in place; returns their network.

    Their weights are fp32 for every base, and depend only on `seed` and the order of layers. Their output is computed
    separately from the frozen weights (`bypass_mode`), because a sum in bf16 would round most of it away. Raises
    ModelError if nothing is left to train, a name does not exist, or `full` is used on quantized layers.
    """
    denoiser.requires_grad_(False)
    refuse_unknown_targets(denoiser, config.preset)
    try:
        with torch.random.fork_rng(devices=[]), _quietly(), _preset(config.preset) as network_type:
            torch.manual_seed(seed)
            network = network_type(
                denoiser,
                network_module=config.algo,
                lora_dim=config.linear_dim,
                conv_lora_dim=0,
                alpha=config.linear_alpha,
                warn_on_unmatched=False,
                **config.arguments,
            )
            _compute_apart(network)
            _refuse_full_on_quantized(network)
            network.apply_to()
    except ValueError as error:
        raise ModelError(f"lycoris_config cannot be attached to this model: {error}") from error
    if not network.loras:
        raise ModelError("lycoris_config leaves no layer to train: its targets hold no linear layers.")
    for parameter in network.parameters():
        parameter.data = parameter.data.float()
    network.requires_grad_(True)
    denoiser.add_module(NAME, network)
    network.to(next(denoiser.parameters()).device)
    return network


def exported(network: Any) -> dict[str, Tensor]:
    """The adapter's tensors in fp32, by the names that `lycoris` and ComfyUI use."""
    return {
        f"{lora.lora_name}.{name}": tensor.detach().float().cpu()
        for lora in network.loras
        for name, tensor in lora.state_dict().items()
    }


@contextmanager
def without_lycoris(denoiser: nn.Module) -> Iterator[None]:
    """A context in which `denoiser`, or its wrapper, predicts without the adapter."""
    from lycoris.wrapper import LycorisNetwork

    networks = [module for module in denoiser.modules() if isinstance(module, LycorisNetwork)]
    assert networks, "there is no adapter to disable"
    try:
        for network in networks:
            network.set_multiplier(0)
        yield
    finally:
        for network in networks:
            network.set_multiplier(1)


def _compute_apart(network: Any) -> None:
    """Make each module add to its layer's output instead of its weights.

    `full` replaces the weights, in fp32, and computes in the dtype of its input, as its layer did.
    """
    from lycoris.modules.full import FullModule
    from lycoris.modules.loha import LohaModule

    of_full: Any = _linear_in_format_of_input
    for lora in network.loras:
        if isinstance(lora, FullModule):
            lora.op = of_full
        else:
            lora.bypass_mode = True
        if isinstance(lora, LohaModule) and not (lora.tucker or lora.rank_dropout):
            lora.bypass_forward_diff = partial(_loha_difference, lora)  # type: ignore[assignment]


def _loha_difference(lora: Any, hidden: Tensor, scale: float = 1) -> Tensor:
    """What a LoHa adds to its layer's output; the library's method copies the scale to the device, a sync per layer."""
    from lycoris.functional.loha import bypass_forward_diff

    gamma: Any = torch.full((), lora.scale * scale, dtype=hidden.dtype, device=hidden.device)
    factors = (each.to(hidden) for each in (lora.hada_w1_b, lora.hada_w1_a, lora.hada_w2_b, lora.hada_w2_a))
    w1_down, w1_up, w2_down, w2_up = factors
    added = bypass_forward_diff(
        hidden, None, w1_down, w1_up, w2_down, w2_up, None, None, gamma=gamma, extra_args=lora.kw_dict
    )
    return lora.drop(added * lora.scalar.to(hidden))


def _refuse_full_on_quantized(network: Any) -> None:
    """Raise ModelError if `full` would change a quantized weight."""
    from lycoris.modules.full import FullModule

    for lora in network.loras:
        if isinstance(lora, FullModule) and is_quantized(lora.org_module[0]):
            fix = "algo=full needs base_model_precision=no_change; lokr, loha and lora train over quantized layers too."
            raise ModelError(f"lycoris_config cannot be attached to this model: {lora.lora_name} is quantized. {fix}")


def _linear_in_format_of_input(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.linear(x, weight.to(x), None if bias is None else bias.to(x))


@contextmanager
def _preset(preset: Mapping[str, Any]) -> Iterator[Any]:
    """The library's network class with `preset` applied; its own preset, which is kept in the class, is restored."""
    from lycoris.wrapper import LycorisNetwork

    nothing = {"target_module": [], "target_name": [], "module_algo_map": {}, "name_algo_map": {}, "exclude_name": []}
    names = [name for name in vars(LycorisNetwork) if name.isupper()]
    before = {name: getattr(LycorisNetwork, name) for name in names}
    try:
        LycorisNetwork.apply_preset({**nothing, "enable_conv": False, "use_fnmatch": False, **preset})
        yield LycorisNetwork
    finally:
        for name, value in before.items():
            setattr(LycorisNetwork, name, value)


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence the library, which logs every module that it makes."""
    import lycoris  # noqa: F401  # sets its own level

    logger = logging.getLogger("LyCORIS")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def refuse_unknown_targets(denoiser: nn.Module, preset: Mapping[str, Any]) -> None:
    """Raise ModelError if a class or name does not exist in the model; the library would ignore it."""
    classes = {type(module).__name__ for module in denoiser.modules()}
    for key in ("target_module", "module_algo_map"):
        for name in preset.get(key, ()):
            if name not in classes:
                hint = did_you_mean(name, classes, otherwise=f"there are {', '.join(sorted(classes))}")
                raise ModelError(f"lycoris_config names `{name}` in {key}, but the model has no such module: {hint}")
    names = [name for name, _ in denoiser.named_modules() if name]
    matches: Callable[[str, str], object] = fnmatch.fnmatch if preset.get("use_fnmatch") else _begins_with
    for key in ("target_name", "name_algo_map", "exclude_name"):
        for pattern in preset.get(key, ()):
            if not any(matches(name, pattern) for name in names):
                hint = did_you_mean(pattern, names, otherwise=f"there are {', '.join(names[:12])} …")
                raise ModelError(f"lycoris_config names `{pattern}` in {key}, but no module has that name: {hint}")


def _begins_with(name: str, pattern: str) -> object:
    return re.match(pattern, name)
