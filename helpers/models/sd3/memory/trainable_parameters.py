"""Counts the transformer's trainable parameters from its shape and the settings, before anything is loaded."""

from fnmatch import fnmatchcase

from helpers.models.memory import Workload
from helpers.models.sd3.lora_targets import SETS, modules_in_set
from helpers.models.sd3.memory.architecture import Linear, Transformer


def adapted_layers(transformer: Transformer, target: str) -> list[Linear]:
    """The linear layers that `lora_target` selects; unknown names are ignored."""
    layers = {layer.name: layer for layer in transformer.linears()}
    if target in SETS:
        return [layers[name] for name in modules_in_set(layers, target, layers=transformer.layers)]
    return [layer for name, layer in layers.items() if _lies_at_one(name, target)]


def _lies_at_one(layer: str, names: str) -> bool:
    """Whether a layer or weight is at or below one of a comma list of names."""
    return any(_lies_at(layer, name.strip()) for name in names.split(",") if name.strip())


def _lies_at(layer: str, name: str) -> bool:
    return fnmatchcase(f".{layer}.", f"*.{name}.*")


def adapter_ranks(transformer: Transformer, workload: Workload) -> list[tuple[Linear, int]]:
    """The layers with a LoRA, each with its rank."""
    return [
        (
            layer,
            next(
                (rank for name, rank in reversed(workload.lora_ranks) if _lies_at(layer.name, name)), workload.lora_rank
            ),
        )
        for layer in adapted_layers(transformer, workload.lora_target)
    ]


def trained_parameters(transformer: Transformer, workload: Workload) -> int:
    """The number of trainable parameters."""
    if workload.model_type == "full":
        return sum(count for name, count in transformer.weights() if _moves(name, workload))
    lengths = sum(layer.outputs for layer, _ in adapter_ranks(transformer, workload)) if workload.use_dora else 0
    return pairs(transformer, workload) + lengths


def _moves(weight: str, workload: Workload) -> bool:
    """Whether a weight is trained in full finetuning."""
    full = workload.full
    if full.train_modules and not _lies_at_one(weight, full.train_modules):
        return False
    if full.layer_freeze_strategy == "bitfit" and not weight.endswith(".bias"):
        return False
    return not _lies_at_one(weight, full.freeze_modules)


def pairs(transformer: Transformer, workload: Workload) -> int:
    """The number of parameters in a LoRA's pairs of matrices."""
    return sum(rank * (layer.inputs + layer.outputs) for layer, rank in adapter_ranks(transformer, workload))
