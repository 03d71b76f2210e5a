"""Which cards the drivers list: by a real `nvidia-smi` that says what the real one does, or by the driver's files."""

import os
from pathlib import Path

import pytest

from helpers.config.env.gpus import amd_cards, cards_hidden_by, find_gpus, nvidia_cards

OPEN_DRIVER = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x@y)  Sun Jul 27\n"
OLDER_DRIVER = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun  6 22:20:39 UTC 2023\n"


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The path of an `nvidia-smi` that is found first."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    return says(tmp_path / "bin/nvidia-smi", "exit 9")


def says(tool: Path, script: str) -> Path:
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    return tool


def test_memory_is_what_the_driver_lists(tool: Path) -> None:
    says(tool, "echo 'NVIDIA GeForce RTX 4090, 24564'\necho 'Tesla, K80, [N/A]'")
    (card,) = find_gpus()
    assert (card.name, card.memory_bytes) == ("NVIDIA GeForce RTX 4090", 24564 * 1024**2)
    says(tool, "exit 9")
    assert find_gpus() == ()


def test_cards_come_with_their_drivers_version(tool: Path, tmp_path: Path) -> None:
    says(tool, "echo 'NVIDIA GeForce RTX 3090, 535.54.03'\necho 'NVIDIA RTX A6000, 535.54.03'")
    cards = nvidia_cards(tmp_path / "nothing")
    assert str(cards) == "NVIDIA GeForce RTX 3090, NVIDIA RTX A6000 (driver 535.54.03)"


@pytest.mark.parametrize(("version", "number"), [(OPEN_DRIVER, "580.65.06"), (OLDER_DRIVER, "535.54.03")])
def test_where_the_tool_fails_the_drivers_own_files_count(
    version: str, number: str, tool: Path, tmp_path: Path
) -> None:
    says(tool, "echo 'Failed to initialize NVML: Driver/library version mismatch'\nexit 18")
    driver = tmp_path / "proc/driver/nvidia"
    (driver / "gpus/0000:01:00.0").mkdir(parents=True)
    (driver / "version").write_text(version)
    (driver / "gpus/0000:01:00.0/information").write_text("Model: \t\t NVIDIA GeForce RTX 3090\nIRQ:   	 90\n")
    assert str(nvidia_cards(tmp_path)) == f"NVIDIA GeForce RTX 3090 (driver {number})"


def test_a_device_node_is_a_card_and_a_driver_alone_is_none(tool: Path, tmp_path: Path) -> None:
    says(tool, "echo 'No devices were found'")
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (tmp_path / "proc/driver/nvidia/version").write_text(OLDER_DRIVER)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/nvidiactl").touch()
    assert nvidia_cards(tmp_path) is None
    (tmp_path / "dev/nvidia0").touch()
    assert str(nvidia_cards(tmp_path)) == "/dev/nvidia0 (driver 535.54.03)"


def test_amd_cards_are_where_rocm_finds_them(tmp_path: Path) -> None:
    assert amd_cards(tmp_path) is None
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/kfd").touch()
    assert str(amd_cards(tmp_path)) == "an AMD GPU (/dev/kfd)"


@pytest.mark.parametrize(
    ("value", "said"), [("", "CUDA_VISIBLE_DEVICES="), ("-1", "CUDA_VISIBLE_DEVICES=-1"), ("0", "")]
)
def test_a_variable_that_hides_every_card_is_named(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert cards_hidden_by() == said
