"""What libraries are told before they are imported, and that it has the effect it is set for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config.env.libraries import ALLOCATOR_NAMES, LYCORIS_BACKEND, segments_can_grow, set_up_libraries
from tests.project.sources import ROOT

CUDA_BUILD = "2.13.0"


@pytest.fixture
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither library's variables, now and after the test."""
    for name in (*ALLOCATOR_NAMES, LYCORIS_BACKEND):
        monkeypatch.setenv(name, "")  # so that monkeypatch removes what the test sets
        monkeypatch.delenv(name)


def test_lycoris_computes_in_plain_pytorch(unset: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from lycoris.kernels.dispatch import resolve_backend

    assert resolve_backend() != "torch"
    set_up_libraries()
    assert resolve_backend() == "torch"
    monkeypatch.setenv(LYCORIS_BACKEND, "compile")
    set_up_libraries()
    assert resolve_backend() == "compile"


def test_the_trainer_sets_them_before_it_imports_a_library(unset: None) -> None:
    code = """
import os, sys, train
assert not {"torch", "lycoris"} & sys.modules.keys()
train.main(["--help"])
assert not {"torch", "lycoris"} & sys.modules.keys()
print(os.environ["LYCORIS_KERNEL_BACKEND"])
"""
    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd=ROOT
    )
    assert said.stdout.splitlines()[-1] == "torch"


def test_memory_segments_grow_where_the_platform_has_them(unset: None, tmp_path: Path) -> None:
    kernel = tmp_path / "version"
    assert segments_can_grow(CUDA_BUILD, kernel=kernel) is (sys.platform == "linux")
    kernel.write_text("Linux version 6.18.33.2-microsoft-standard-WSL2 (root@x) #1 SMP")
    assert not segments_can_grow(CUDA_BUILD, kernel=kernel)
    assert not segments_can_grow("2.13.0+rocm7.1", kernel=tmp_path / "nothing")


@pytest.mark.skipif(not segments_can_grow(CUDA_BUILD), reason="the platform has no such segments")
def test_an_allocator_that_the_person_has_set_stays(unset: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.config.env.libraries.version", lambda name: CUDA_BUILD)
    set_up_libraries()
    assert os.environ.pop("PYTORCH_ALLOC_CONF") == "expandable_segments:True"
    for name in ALLOCATOR_NAMES:
        with monkeypatch.context() as patched:
            patched.setenv(name, "max_split_size_mb:512")
            set_up_libraries()
            assert [os.environ.get(each) for each in ALLOCATOR_NAMES if each != name] == [None, None]
            assert os.environ[name] == "max_split_size_mb:512"


def test_pytorch_takes_the_allocators_setting() -> None:
    """As the name of the variable is PyTorch's: one that it does not read would have no effect and no message."""
    words = "import torch; print(torch._C._accelerator_getAllocatorSettings())"
    said = subprocess.run(
        [sys.executable, "-c", words],
        env={**os.environ, "PYTORCH_ALLOC_CONF": "expandable_segments:True"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "expandable_segments:True" in said.stdout, said.stderr
