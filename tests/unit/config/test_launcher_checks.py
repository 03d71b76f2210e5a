"""What is asked of several processes that this program does not do is refused, before anything is loaded."""

from pathlib import Path

import pytest

from helpers.config.checks.launcher import OTHER_ENGINES, is_fsdp, zero_stage
from helpers.config.load import load_config
from helpers.errors import ConfigError

FSDP2 = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
ZERO = {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
FILES = sorted(Path("config/accelerate").glob("*.yaml"))


def said_of(*flags: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(["--output_dir=somewhere", *flags])
    return str(error.value)


@pytest.mark.parametrize(("variable", "engine"), OTHER_ENGINES.items())
def test_an_engine_that_divides_the_model_otherwise_is_refused_with_the_cure(
    variable: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    said = said_of()
    assert f"ask for {engine}" in said
    assert "documentation/DISTRIBUTED.md" in said
    monkeypatch.setenv(variable, "false")
    assert "ask for" not in said_of()


@pytest.mark.parametrize(
    "flags",
    [
        ["--model_type=lora"],
        ["--model_type=full", "--optimizer=lion"],
        ["--model_type=full", "--use_ema=true"],
        ["--model_type=full", "--optimizer=adamw_bf16", "--fused_backward=true"],
        ["--model_type=full", "--offload_blocks=2"],
        ["--model_type=full", "--training_dynamo_backend=inductor"],
    ],
    ids=lambda flags: flags[-1].removeprefix("--"),
)
def test_what_needs_whole_weights_does_not_go_with_fsdp(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "cannot be combined with FSDP" not in said_of(*flags)
    for variable, value in FSDP2.items():
        monkeypatch.setenv(variable, value)
    said = said_of(*flags)
    assert said.count("cannot be combined with FSDP") == 1
    name = flags[-1].removeprefix("--").partition("=")[0]
    assert name in said.lower()
    assert "remove FSDP" in said


@pytest.mark.parametrize(
    ("variable", "value"),
    [("FSDP_VERSION", "1"), ("FSDP_OFFLOAD_PARAMS", "true"), ("FSDP_ACTIVATION_CHECKPOINTING", "true")],
)
def test_what_fsdps_file_may_not_say_is_refused(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, good in FSDP2.items():
        monkeypatch.setenv(name, good)
    assert "FSDP" not in said_of("--model_type=full")
    monkeypatch.setenv(variable, value)
    assert "FSDP is set up with" in said_of("--model_type=full")


@pytest.fixture
def deepspeed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed is asked for, and there to be found."""
    (tmp_path / "deepspeed.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name, value in ZERO.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("deepspeed")
@pytest.mark.parametrize(
    "flags",
    [
        ["--model_type=lora"],
        ["--model_type=full", "--optimizer=adamw_bf16"],
        ["--model_type=full", "--base_model_default_dtype=bf16"],
        ["--model_type=full", "--use_ema=true"],
        ["--model_type=full", "--offload_blocks=2"],
        ["--model_type=full", "--training_dynamo_backend=inductor"],
    ],
    ids=lambda flags: flags[-1].removeprefix("--"),
)
def test_what_does_not_go_with_deepspeed(flags: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = said_of(*flags)
    assert said.count("cannot be combined with DeepSpeed") == 1
    assert flags[-1].removeprefix("--").partition("=")[0] in said.lower()
    assert "remove DeepSpeed" in said
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "false")
    assert "DeepSpeed" not in said_of(*flags)


@pytest.mark.usefixtures("deepspeed")
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3"),
        ("ACCELERATE_DEEPSPEED_CONFIG_FILE", "mine.json"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE", "cpu"),
        ("ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE", "nvme"),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4"),
        ("ACCELERATE_GRADIENT_CLIPPING", "1.0"),
    ],
)
def test_what_deepspeeds_file_may_not_say_is_refused(
    variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "DeepSpeed" not in said_of("--model_type=full")
    monkeypatch.setenv(variable, value)
    assert said_of("--model_type=full").count("DeepSpeed is set up with") == 1


@pytest.mark.usefixtures("deepspeed")
def test_deepspeed_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helpers.config.checks.launcher.find_spec", lambda name: None)
    assert "pip install deepspeed" in said_of("--model_type=full")


@pytest.mark.usefixtures("deepspeed")
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_takes_each_example_as_this_program_does(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the launcher's own reading of it, to what it says to each process."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser
    from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env

    monkeypatch.setattr("torch.cuda.device_count", lambda: 16)  # a machine with GPUs is the only one it fits
    words = launch_command_parser().parse_args([f"--config_file={file}", "train.py"])
    arguments, *_ = _validate_launch_command(words)
    for name in ZERO:
        monkeypatch.delenv(name)
    assert arguments.use_fsdp != arguments.use_deepspeed
    if arguments.use_fsdp:
        told = prepare_multi_gpu_env(arguments)
    else:
        arguments.deepspeed_fields_from_accelerate_config = ""
        arguments.main_process_port = 0
        told = prepare_deepspeed_cmd_env(arguments)[1]
    for name, value in told.items():
        if name.startswith(("FSDP_", "ACCELERATE_")):
            monkeypatch.setenv(name, value)
    assert is_fsdp() == arguments.use_fsdp
    assert zero_stage() == (2 if arguments.use_deepspeed else 0)
    said = said_of("--model_type=full")
    assert "FSDP" not in said
    assert "DeepSpeed" not in said


def test_there_is_an_example() -> None:
    assert FILES
