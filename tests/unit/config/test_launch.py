"""`train.sh` through a real shell, in a copy of the repository whose train.py only says what reached it."""

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.config.env.launch import command_line, translated
from helpers.config.options.launch import LaunchOptions
from tests.unit.config.launching import LEAST, REPOSITORY, VENV, environment, run_train_sh, words_for, write_env_file


def test_the_env_file_the_words_and_the_exit_status_pass_through(copy: Path) -> None:
    write_env_file(copy, LEAST + "LORA_RANK=4\nVALIDATION_PROMPT=\"it's a 'cat'; #2\"\nexport HF_HOME=/hf\n")
    run = run_train_sh(copy, "--lora_rank=8", "--validation_negative_prompt=two words")
    said = run.stdout.splitlines()
    assert run.returncode == 7, run.stderr
    assert said[0] == "train.py"
    assert {
        "--lora_rank=8",
        "--validation_prompt=it's a 'cat'; #2",
        "--validation_negative_prompt=two words",
        "HF_HOME=/hf",
    } <= set(said)
    assert "HF_HOME" in run.stderr
    assert "demo" not in run.stderr


def test_another_env_file_can_be_named(copy: Path) -> None:
    write_env_file(copy, "broken (")
    write_env_file(copy, LEAST + "LORA_RANK=3\n", name="other")
    assert "--lora_rank=3" in run_train_sh(copy, ENV="other").stdout
    missing = run_train_sh(copy, ENV="nobody")
    assert missing.returncode != 0
    assert "config/nobody/config.env" in missing.stderr


def test_without_an_env_file_the_demo_runs_and_that_is_said(copy: Path) -> None:
    write_env_file(copy, LEAST + "LORA_RANK=2\n", name="demo")
    run = run_train_sh(copy)
    assert "--lora_rank=2" in run.stdout
    assert "embedded demo" in run.stderr


def test_mistakes_are_told_and_nothing_is_started(copy: Path) -> None:
    write_env_file(copy, LEAST + "LORA_RNK=4\n")
    run = run_train_sh(copy, "--nonsense")
    assert run.returncode == 1
    assert run.stdout == ""
    assert "did you mean LORA_RANK?" in run.stderr
    assert "--nonsense" in run.stderr
    assert "Traceback" not in run.stderr


# As people wrote them for SimpleTuner in 2024, with everything that a shell allows.
OLD_FILE = r"""
# Configure these values.
export RESUME_CHECKPOINT="latest"
export CHECKPOINTING_STEPS=150
export CHECKPOINTING_LIMIT=2 # how many we will keep
export LEARNING_RATE=1e-4 #@param {type:"number"}
export MODEL_TYPE='lora'
export STABLE_DIFFUSION_3=true
export FLUX=false
export PIXART_SIGMA=false
export CONTROLNET=false
export USE_DORA=false
export USE_BITFIT=false
export MODEL_NAME="stabilityai/stable-diffusion-3-medium-diffusers"
export BASE_DIR="$PWD/output"
export DATALOADER_CONFIG="${BASE_DIR}/multidatabackend.json"
export OUTPUT_DIR="${BASE_DIR}/models"
export PUSH_TO_HUB="false"
export HUB_MODEL_NAME="simpletuner-$(date +%Y)"
export MAX_NUM_STEPS=3000
export NUM_EPOCHS=0
export LR_SCHEDULE="polynomial"
export LR_WARMUP_STEPS=$((MAX_NUM_STEPS / 10))
export TRAIN_BATCH_SIZE=4
export CAPTION_DROPOUT_PROBABILITY=0.1
export METADATA_UPDATE_INTERVAL=65
export VAE_BATCH_SIZE=12
export DELETE_SMALL_IMAGES=0
export DELETE_ERRORED_IMAGES=0
export RESOLUTION=1
export RESOLUTION_TYPE="area"
export MINIMUM_RESOLUTION=$RESOLUTION
export ASPECT_BUCKET_ROUNDING=2
export VALIDATION_PROMPT="a hat that isn't red, #1 of 3"
export VALIDATION_NEGATIVE_PROMPT='blurry, cropped, ugly'
export VALIDATION_GUIDANCE=7.5
export VALIDATION_GUIDANCE_RESCALE=0.0
export VALIDATION_STEPS=100
export VALIDATION_RESOLUTION="1024x1024,1280x768"
export MIN_SNR_GAMMA=5
export GRADIENT_ACCUMULATION_STEPS=4
export MIXED_PRECISION="bf16"
export PURE_BF16=true
export OPTIMIZER="adamw_bf16"
export TRAINING_SEED=42
export USE_GRADIENT_CHECKPOINTING=true
export ALLOW_TF32=true
export USE_XFORMERS=false
export USE_EMA=false
export TRAINING_NUM_PROCESSES=1
export TRAINING_NUM_MACHINES=1
export TRAINING_DYNAMO_BACKEND='no'
export TRAINER_EXTRA_ARGS="--base_model_precision=int8-quanto --lora_rank=16"
export TRAINER_EXTRA_ARGS="${TRAINER_EXTRA_ARGS} --instance_prompt 'it is \"mine\"'"
"""


def test_an_old_file_works_line_ends_of_windows_included(copy: Path) -> None:
    (copy / "config" / "config.env").write_bytes(OLD_FILE.replace("\n", "\r\n").encode())
    run = run_train_sh(copy)
    assert run.returncode == 7, run.stderr
    assert {
        "--learning_rate=0.0001",
        "--checkpoints_total_limit=2",
        "--lr_warmup_steps=300",
        "--minimum_image_size=1.0",
        "--validation_prompt=a hat that isn't red, #1 of 3",
        f"--output_dir={copy}/output/models",
        f"--data_backend_config={copy}/output/multidatabackend.json",
        "--base_model_precision=int8-quanto",
        '--instance_prompt=it is "mine"',
    } <= set(run.stdout.splitlines())
    for name in ("MIN_SNR_GAMMA", "METADATA_UPDATE_INTERVAL", "VALIDATION_GUIDANCE_RESCALE", "PURE_BF16", "BASE_DIR"):
        assert name in run.stderr


def test_an_old_file_gets_the_number_of_every_line_to_change(copy: Path) -> None:
    changes = {
        "FLUX=false": "FLUX=true",
        'MIXED_PRECISION="bf16"': "MIXED_PRECISION='fp16'",
        "DELETE_SMALL_IMAGES=0": "DELETE_SMALL_IMAGES=1",
        "export TRAINING_SEED=42": "export TRAINING_SEED = 42",
        "NUM_EPOCHS=0": "NUM_EPOCHS=1",
        "--lora_rank=16": "--lora_rnk=16",
        "VALIDATION_STEPS=100": "VALIDATION_STPES=100",
        'VALIDATION_RESOLUTION="1024x1024,1280x768"': "VALIDATION_RESOLUTION=1000",
    }
    text = OLD_FILE
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    write_env_file(copy, text)
    run = run_train_sh(copy)
    assert run.returncode == 1
    told = {int(number) for number in re.findall(r"config\.env, line (\d+)", run.stderr)}
    lines = text.splitlines()
    assert told == {number for number, line in enumerate(lines, 1) if any(new in line for new in changes.values())}


def test_mistakes_of_env_file_and_dataset_file_are_told_in_one_round(copy: Path) -> None:
    (copy / "output").mkdir()
    entry = {"id": "mine", "type": "local", "instance_data_dir": "nowhere", "crop": "False"}
    (copy / "output" / "multidatabackend.json").write_text(json.dumps([entry]))
    write_env_file(copy, "MODEL_NMAE=some/model\nOUTPUT_DIR=output\nMAX_NUM_STEPS = 10\nLORA_RANK=four\n")
    run = run_train_sh(copy)
    assert run.returncode == 1
    assert "5 settings need a change" in run.stderr
    fixes = ["did you mean MODEL_NAME?", 'write MAX_NUM_STEPS="10", without spaces around the =', "LORA_RANK"]
    assert not [fix for fix in [*fixes, "key instance_data_dir", "key crop"] if fix not in run.stderr]


def test_help_needs_no_valid_env_file(copy: Path) -> None:
    write_env_file(copy, "broken (")
    assert run_train_sh(copy, "--help").stdout.splitlines()[:2] == ["train.py", "--help"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_reach_the_trainer(copy: Path, number: signal.Signals) -> None:
    write_env_file(copy, LEAST)
    command = ["bash", copy / "train.sh", "--seed=99"]
    with subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not process.stdout.readline().startswith("HF_HOME="):
            pass
        # The stand-in listens once it has said this line and a moment has passed.
        for _ in range(50):
            try:
                process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                process.send_signal(number)
        assert process.returncode == 128 + number


def test_the_environment_may_be_named_in_the_env_file_and_is_made_where_there_is_none(copy: Path) -> None:
    (copy / "install").mkdir()
    (copy / "install" / "setup.sh").write_text(f'echo "making $VENV_PATH" >&2\nln -s "{VENV}" "$VENV_PATH"\n')
    write_env_file(copy, LEAST + 'HERE=$PWD\nVENV_PATH="$HERE/my env"\r\n')
    first, second = run_train_sh(copy), run_train_sh(copy)
    assert "making" in first.stderr
    assert "my env" in first.stderr
    assert first.returncode == second.returncode == 7
    assert "making" not in second.stderr


@pytest.fixture
def damaged(tmp_path: Path) -> Path:
    """An environment whose Python dies at `import torch`, as it does when a library of PyTorch's is damaged."""
    folder = tmp_path / "damaged"
    (folder / "lib/python3.11/site-packages/diffusers").mkdir(parents=True)
    (folder / "lib/python3.11/site-packages/diffusers/__init__.py").touch()
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text(f'#!/bin/bash\n[ "$*" != "-c import torch" ] || kill -SEGV $$\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    return folder


def test_a_pytorch_that_ends_python_is_reported_with_the_fix(copy: Path, damaged: Path) -> None:
    write_env_file(copy, LEAST)
    run = run_train_sh(copy, VENV_PATH=str(damaged))
    assert run.returncode == 139
    assert "status 139, signal 11" in run.stderr
    assert f"delete the folder {damaged}" in run.stderr
    assert "install/check_files.py" in run.stderr
    assert not run.stdout


def test_pytorch_is_tried_once_and_again_after_an_install(copy: Path, damaged: Path) -> None:
    tried = copy / "tried"
    python = damaged / "bin" / "python"
    python.write_text(python.read_text().replace("kill -SEGV $$", f'{{ echo >> "{tried}"; exit 0; }}'))
    write_env_file(copy, LEAST)
    for _ in range(2):
        assert run_train_sh(copy, VENV_PATH=str(damaged)).returncode == 7
    assert tried.read_text() == "\n"
    (damaged / "lib/python3.11/site-packages/torch-99.dist-info").mkdir()
    assert run_train_sh(copy, VENV_PATH=str(damaged)).returncode == 7
    assert tried.read_text() == "\n\n"


def test_the_shipped_example_is_valid_as_it_is(tmp_path: Path) -> None:
    translation = translated(REPOSITORY / "config" / "config.env.example", flags=())
    assert translation.remarks == ()
    assert dict(translation.exports) == {}
    assert command_line(translation, environment={"HF_HOME": str(tmp_path)})[0] == "train.py"


def test_one_plain_process_starts_without_accelerate(tmp_path: Path) -> None:
    for launch in (LaunchOptions(), LaunchOptions(training_num_processes=1, training_num_machines=1)):
        assert words_for(launch, tmp_path) == ["train.py", "--seed=1"]


def test_several_processes_start_through_accelerate(tmp_path: Path) -> None:
    words = words_for(LaunchOptions(training_num_processes=2), tmp_path)
    assert words[:2] == ["-m", "helpers.config.env.supervise"]
    assert {"--num_processes=2", "--num_machines=1", "--multi_gpu"} <= set(words)
    assert words[-2:] == ["train.py", "--seed=1"]
    chosen = words_for(LaunchOptions(training_num_processes=2, accelerate_extra_args="--use_fsdp --x='a b'"), tmp_path)
    assert "--multi_gpu" not in chosen
    assert chosen[-4:] == ["--use_fsdp", "--x=a b", "train.py", "--seed=1"]


def test_translating_imports_nothing_heavy() -> None:
    code = "import sys, helpers.config.env.launch; print(sorted({'torch', 'pydantic', 'numpy'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
