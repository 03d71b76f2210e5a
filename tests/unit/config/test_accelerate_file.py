"""accelerate's own default file changes no run silently, and a file named to it is checked first."""

from pathlib import Path

import pytest

from helpers.config.env.accelerate_file import PLAIN, remarks_on
from helpers.config.env.accelerate_file import default_file as named_default
from helpers.config.options.launch import LaunchOptions
from tests.unit.config.launching import LEAST, run_train_sh, words_for, write_env_file

EIGHT_FP8 = "compute_environment: LOCAL_MACHINE\ndistributed_type: MULTI_GPU\nmixed_precision: fp8\nnum_processes: 8\n"


def default_file(cache: Path, text: str, *, ending: str = "yaml") -> Path:
    """The file that `accelerate config` would write below XDG_CACHE_HOME."""
    file = cache / "huggingface" / "accelerate" / f"default_config.{ending}"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return file


@pytest.mark.parametrize(
    ("text", "ending", "reported"),
    [
        (EIGHT_FP8, "yaml", "asks for num_processes 8, mixed_precision fp8"),
        (
            '{"distributed_type": "NO", "mixed_precision": "fp16", "gpu_ids": "1"}',
            "json",
            "mixed_precision fp16, gpu_ids",
        ),
        ("distributed_type: 'NO'\nnum_processes: [8\n", "yaml", "it is broken"),
        ("distributed_type: 'NO'\n\tnum_processes: 8\n", "yaml", "it is broken"),
        ("", "yaml", "it is broken"),
        ("num_processes: 1\n", "yaml", "it is broken"),
    ],
)
def test_a_stale_or_broken_default_file_of_accelerate_is_reported_by_its_path_and_not_used(
    copy: Path, tmp_path: Path, text: str, ending: str, reported: str
) -> None:
    file = default_file(tmp_path / "cache", text, ending=ending)
    write_env_file(copy, LEAST)
    run = run_train_sh(copy, XDG_CACHE_HOME=str(tmp_path / "cache"))
    line = next(line for line in run.stderr.splitlines() if str(file) in line)
    assert reported in line
    assert f"ACCELERATE_EXTRA_ARGS=--config_file={file}" in line
    assert run.returncode == 7, "one process, started without accelerate"
    assert run.stdout.splitlines()[0] == "train.py"


def test_a_default_file_of_accelerate_that_changes_nothing_is_not_mentioned(tmp_path: Path) -> None:
    default_file(tmp_path, "distributed_type: 'NO'\nmixed_precision: bf16\nnum_processes: 1\nuse_cpu: false\n")
    assert not [*remarks_on(LaunchOptions(), extra=(), environment={"XDG_CACHE_HOME": str(tmp_path)})]


def test_several_processes_do_not_follow_the_default_file(tmp_path: Path) -> None:
    file = default_file(tmp_path, EIGHT_FP8)
    words = words_for(LaunchOptions(training_num_processes=2), tmp_path)
    assert {"--num_processes=2", "--mixed_precision=no", f"--config_file={PLAIN}"} <= set(words)
    launch = LaunchOptions(accelerate_extra_args=f"--config_file={file}")
    assert words_for(launch, tmp_path)[2:5] == ["--mixed_precision=no", f"--config_file={file}", "train.py"]


def test_the_default_files_place_follows_hf_home(tmp_path: Path) -> None:
    file = default_file(tmp_path, EIGHT_FP8)
    assert named_default({"HF_HOME": str(tmp_path / "huggingface"), "XDG_CACHE_HOME": "/nonexistent"}) == file
    assert named_default({"HF_HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}) is None


def test_a_file_named_to_accelerate_is_checked_before_anything_starts(copy: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("distributed_type: [\n")
    for file, reason in ((broken, "it is broken"), (tmp_path / "nowhere.yaml", "there is no such file")):
        write_env_file(copy, LEAST + f'ACCELERATE_EXTRA_ARGS="--config_file={file}"\nLORA_RANK=four\n')
        run = run_train_sh(copy)
        assert run.returncode == 1
        assert run.stdout == ""
        assert "LORA_RANK" in run.stderr, "all mistakes at once"
        assert str(file) in run.stderr
        assert reason in run.stderr
    broken.write_text(EIGHT_FP8)
    (line,) = remarks_on(LaunchOptions(), extra=["--config_file", str(broken)], environment={})
    assert line.startswith(f"{broken} asks for mixed_precision fp8, which has no effect")
