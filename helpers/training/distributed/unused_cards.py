"""Stops a run that would train on the CPU because PyTorch cannot use the GPU."""

import torch

from helpers.config.env.gpus import ListedCards, amd_cards, cards_hidden_by, nvidia_cards
from helpers.errors import ConfigError, Problem

# From NVIDIA's CUDA release notes for Linux: the oldest driver for each CUDA version.
OLDEST_DRIVERS = {"13": "580", "12": "525"}
BUILDS = "https://pytorch.org/get-started/locally"


def check_no_card_is_unused() -> None:
    """Raise ConfigError if the driver lists a GPU but PyTorch cannot use any."""
    nvidia = nvidia_cards()
    cards = nvidia or (amd_cards() if torch.version.hip else None)
    if cards is None:
        return
    reason = f"the driver lists {cards}, and {pytorch_build()} cannot use it: {_pytorchs_reason()}"
    fix = f"{fix_of(cards, is_nvidia=nvidia is not None)}; FORCE_CPU=true trains on the CPU instead"
    raise ConfigError([Problem(option="FORCE_CPU", value="false", reason=reason, fix=fix)])


def pytorch_build() -> str:
    """`PyTorch 2.13.0 for CUDA 13.0`, as it is installed."""
    if torch.version.hip:
        device = f"ROCm {torch.version.hip}"
    else:
        device = f"CUDA {torch.version.cuda}" if torch.version.cuda else "processors only"
    return f"PyTorch {torch.__version__} for {device}"


def fix_of(cards: ListedCards, *, is_nvidia: bool) -> str:
    """How to make PyTorch work with the GPUs, without a full stop."""
    if hidden_by := cards_hidden_by():
        return f"unset {hidden_by.partition('=')[0]}, which hides every GPU"
    if not is_nvidia:
        return "install AMD's ROCm driver and join the groups `render` and `video`"
    if torch.version.hip or not torch.version.cuda:
        return f"install a PyTorch for CUDA: bash install/setup.sh in a new environment, or {BUILDS}"
    oldest = OLDEST_DRIVERS.get(torch.version.cuda.partition(".")[0])
    newer = f" to {oldest} or newer" if oldest and _is_older(cards.driver_version, oldest) else ""
    return f"update NVIDIA's driver{newer} and restart, or install a PyTorch for an older CUDA: {BUILDS}"


def _is_older(version: str, oldest: str) -> bool:
    major = version.partition(".")[0]
    return not major or int(major) < int(oldest)


def _pytorchs_reason() -> str:
    """PyTorch's own error message for why it has no device."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return " ".join(str(error).split())
    return "torch.cuda.is_available() is false"
