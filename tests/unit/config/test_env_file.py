"""The env file is a shell script, read by a real bash; what it sets becomes flags, or everything wrong with it."""

import json
from pathlib import Path

import pytest

from helpers.config.deprecated_options import OLD_NAMES
from helpers.config.env.env_file import read_env_file
from helpers.config.env.launch import translated
from helpers.config.env.translate import Translation, env_names
from helpers.config.train_config import all_options
from helpers.errors import ConfigError, Problem

LEAST = "MODEL_NAME=some/model\nMAX_NUM_STEPS=10\n"


def variables(folder: Path, script: str | bytes) -> dict[str, str]:
    file = folder / "config.env"
    file.write_bytes(script.encode() if isinstance(script, str) else script)
    return read_env_file(file, known=env_names())


def translate_file(folder: Path, script: str, *flags: str) -> Translation:
    (folder / "images").mkdir(exist_ok=True)
    entry = {"id": "mine", "type": "local", "instance_data_dir": "images"}
    (folder / "multidatabackend.json").write_text(json.dumps([entry]))
    file = folder / "config.env"
    file.write_text(f"OUTPUT_DIR='{folder}'\n{LEAST}{script}")
    return translated(file, flags=flags)


def arguments(folder: Path, script: str, *flags: str) -> set[str]:
    """The flags that `script` adds to the least that a run needs."""
    least = translate_file(folder, "").arguments
    return set(translate_file(folder, script, *flags).arguments) - set(least)


def problems(folder: Path, script: str, *flags: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        translate_file(folder, script, *flags)
    return caught.value.problems


def test_what_a_shell_understands(tmp_path: Path) -> None:
    script = r"""
# a comment
export PLAIN=1
UNEXPORTED=two   # another
export BASE_DIR="/data" RUN_NAME='my run'
FROM_OTHERS="${BASE_DIR}/$RUN_NAME"
RATE=$((3 * 4))
DAY=$(printf '%s' monday)
APOSTROPHE="a cat's #1 hat"
HASH='a # b'
LINES_OF_IT="one
two"
DEFAULTED=${NOBODY_SET_THIS:-fallback}
function double() { echo $(($1 * 2)); }
if [ -n "$RATE" ]; then DOUBLED=$(double 4); fi
[ -z "$RATE" ] && NEVER=1
EMPTY=
"""
    assert variables(tmp_path, script) == {
        "PLAIN": "1",
        "UNEXPORTED": "two",
        "BASE_DIR": "/data",
        "RUN_NAME": "my run",
        "FROM_OTHERS": "/data/my run",
        "RATE": "12",
        "DAY": "monday",
        "APOSTROPHE": "a cat's #1 hat",
        "HASH": "a # b",
        "LINES_OF_IT": "one\ntwo",
        "DEFAULTED": "fallback",
        "DOUBLED": "8",
        "EMPTY": "",
    }


def test_a_file_from_windows(tmp_path: Path) -> None:
    script = b'\xef\xbb\xbfexport A="x y"\r\nB=$((1+1))\r\nif true; then\r\n  C="it\'s"\r\nfi\r\n'
    assert variables(tmp_path, script) == {"A": "x y", "B": "2", "C": "it's"}


def test_only_what_the_file_sets_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LORA_RANK", "4")
    monkeypatch.setenv("OUTPUT_DIR", "/same")
    monkeypatch.setenv("OTHER", "untouched")
    script = 'export OUTPUT_DIR="${OUTPUT_DIR:-/default}"\nFROM_RANK=$LORA_RANK\n'
    assert variables(tmp_path, script) == {"OUTPUT_DIR": "/same", "FROM_RANK": "4"}


def test_the_file_may_ask_where_it_lies_and_source_another(tmp_path: Path) -> None:
    (tmp_path / "more.env").write_text("SHARED=7\n")
    script = 'source "$(dirname "${BASH_SOURCE[0]}")/more.env"\n'
    assert variables(tmp_path, script)["SHARED"] == "7"


def test_what_its_commands_say_is_shown_and_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert variables(tmp_path, "A=1\necho out\necho err >&2\n") == {"A": "1"}
    assert capsys.readouterr().err == "out\nerr\n"


@pytest.mark.parametrize(
    ("script", "line", "reason"),
    [
        ("A=1\nLEARNING_RATE = 1e-4\n", 2, "LEARNING_RATE: command not found"),
        ("A=1\nB=two words\n", 2, "words: command not found"),
        ("A=1\n\nB=$(false)\n", 3, "the command failed"),
        ('A=1\nB="open\n', 2, "unexpected EOF"),
        ("if true; then\nA=1\n", 3, "syntax error"),
        ("A=1\nB=$((1 / 0))\n", 2, "division by 0"),
        ("export A-B=1\n", 1, "not a valid identifier"),
    ],
)
def test_a_script_that_fails_is_told_with_its_line(tmp_path: Path, script: str, line: int, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variables(tmp_path, script)
    (problem,) = caught.value.problems
    assert problem.option == f"{tmp_path / 'config.env'}, line {line}"
    assert reason in problem.reason


def test_the_line_of_a_file_from_windows_is_told_under_its_own_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.env, line 2 = nonsense here"):
        variables(tmp_path, b"A=1\r\nnonsense here\r\n")


def test_every_failing_line_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        variables(tmp_path, "A = 1\nB=2\nC = 3\n")
    assert [problem.value for problem in caught.value.problems] == ["A = 1", "C = 3"]


def test_a_script_that_leaves_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="leaves the shell"):
        variables(tmp_path, "A=1\nexit 0\n")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.env"):
        read_env_file(tmp_path / "nowhere.env", known=())


def test_every_env_name_reaches_its_flag(tmp_path: Path) -> None:
    script = "VALIDATION_SEED=7\nUSE_GRADIENT_CHECKPOINTING=false\nMINIMUM_RESOLUTION=0.5\nLR_SCHEDULE=cosine\n"
    assert arguments(tmp_path, script) == {
        "--validation_seed=7",
        "--gradient_checkpointing=false",
        "--minimum_image_size=0.5",
        "--lr_scheduler=cosine",
    }


def test_an_empty_value_says_nothing_except_where_it_means_something(tmp_path: Path) -> None:
    script = "LORA_RANK=\nVALIDATION_PROMPT=\nUSE_EMA=\nTRAINING_NUM_PROCESSES=\nVALIDATION_SEED=\n"
    assert arguments(tmp_path, script) == {"--validation_seed="}


def test_the_command_line_wins_over_extra_words_and_those_over_names(tmp_path: Path) -> None:
    script = "LORA_RANK=1\nTRAINER_EXTRA_ARGS='--lora_rank=2 --lora_alpha=5'\n"
    assert arguments(tmp_path, script) == {"--lora_rank=2", "--lora_alpha=5.0"}
    assert arguments(tmp_path, script, "--lora_rank=3") == {"--lora_rank=3", "--lora_alpha=5.0"}


def test_extra_words_are_split_as_a_shell_would(tmp_path: Path) -> None:
    script = """DEBUG_EXTRA_ARGS='--report_to=wandb'
TRAINER_EXTRA_ARGS="--validation_prompt='a cat, #2' --lora_target \\"to_q,to_k\\""
"""
    assert arguments(tmp_path, script) == {
        "--report_to=wandb",
        "--validation_prompt=a cat, #2",
        "--lora_target=to_q,to_k",
    }


def test_two_different_values_are_announced_and_equal_ones_are_not(tmp_path: Path) -> None:
    script = "LORA_RANK=16\nLORA_DROPOUT=0.1\nOPTIMIZER=adamw\n"
    script += 'TRAINER_EXTRA_ARGS="--lora_rank=16 --lora_dropout=.2 --use_prodigy_optimizer"\n'
    remarks = "\n".join(translate_file(tmp_path, script).remarks)
    assert "--lora_dropout in TRAINER_EXTRA_ARGS sets .2, which overrides LORA_DROPOUT" in remarks
    assert "sets prodigy, which overrides OPTIMIZER" in remarks
    assert "lora_rank" not in remarks


@pytest.mark.parametrize("name", ["TRAINER_EXTRA_ARGS", "ACCELERATE_EXTRA_ARGS"])
def test_an_open_quote_in_extra_words(tmp_path: Path, name: str) -> None:
    (problem,) = problems(tmp_path, f'{name}="--validation_prompt=\'a cat"\n')
    assert problem.option == f"{name} in {tmp_path / 'config.env'}, line 4"
    assert problem.fix == "close every quote that you open"


@pytest.mark.parametrize("name", sorted({option.env for option in all_options()} | {"TRAINING_NUM_PROCESSES"}))
def test_a_misspelt_name_is_told_with_the_one_that_was_meant(tmp_path: Path, name: str) -> None:
    for slip in (name[:2] + name[3:], name.lower()):
        problem, *_ = problems(tmp_path, f"{slip}=1\n")
        assert slip in problem.option
        assert problem.fix == f"did you mean {name}?"


@pytest.mark.parametrize(
    ("said", "meant"),
    [("MAX_TRAIN_STEPS", "MAX_NUM_STEPS"), ("SEED", "TRAINING_SEED"), ("LR_SCHEDULER", "LR_SCHEDULE")],
)
def test_a_flag_in_capitals_is_told_with_the_env_name(tmp_path: Path, said: str, meant: str) -> None:
    (problem,) = problems(tmp_path, f"{said}=1\n")
    assert problem.fix == f"did you mean {meant}?"


def test_other_names_are_handed_on_and_listed_in_one_line(tmp_path: Path) -> None:
    script = "export HF_HOME=/hf\nMODEL_NAME_2=b\nOUTPUT_DIR2=c\nRESOLUTION_OF_OLD=3\n"
    translation = translate_file(tmp_path, script)
    assert translation.exports == {"HF_HOME": "/hf", "MODEL_NAME_2": "b", "OUTPUT_DIR2": "c", "RESOLUTION_OF_OLD": "3"}
    (remark,) = translation.remarks
    assert "HF_HOME, MODEL_NAME_2, OUTPUT_DIR2, RESOLUTION_OF_OLD" in remark


@pytest.mark.parametrize(
    "script",
    [
        "STABLE_DIFFUSION_3=false",
        "FLUX=true",
        "PIXART_SIGMA=1",
        "KOLORS=yes",
        "STABLE_DIFFUSION_LEGACY=true",
        "SMOLDIT=true",
        "CONTROLNET=true",
        "MIXED_PRECISION=fp16",
        "DELETE_ERRORED_IMAGES=1",
        "DELETE_SMALL_IMAGES=1",
        "TRAINING_NUM_PROCESSES=0",
    ],
)
def test_what_this_program_does_not_do_is_told(tmp_path: Path, script: str) -> None:
    (problem,) = problems(tmp_path, script + "\n")
    assert script.partition("=")[0] in problem.option
    assert problem.fix


def test_an_old_file_gets_a_line_for_what_has_no_meaning_here(tmp_path: Path) -> None:
    silent = {old.env_name: "false" for old in OLD_NAMES if old.harmless is not None and "false" in old.harmless}
    script = "".join(f"{name}={value}\n" for name, value in silent.items())
    assert translate_file(tmp_path, script).remarks == ()
    script = "MIN_SNR_GAMMA=5\nUSE_XFORMERS=false\nPURE_BF16=true\n"
    assert [remark.split()[0] for remark in translate_file(tmp_path, script).remarks] == [
        "MIN_SNR_GAMMA",
        "PURE_BF16",
        "USE_XFORMERS",
    ]


def test_everything_wrong_is_told_at_once_and_under_the_name_that_was_said(tmp_path: Path) -> None:
    script = 'LORA_RNK=4\nLORA_RANK=none\nTRAINING_NUM_MACHINES=x\nTRAINER_EXTRA_ARGS="--lora_drop=1"\n'
    told = [problem.option for problem in problems(tmp_path, script + "NUM_EPOCHS=1\n", "--lr_pwr=2")]
    file = tmp_path / "config.env"
    assert told == [
        f"LORA_RNK in {file}, line 4",
        f"TRAINING_NUM_MACHINES in {file}, line 6",
        f"--lora_drop in TRAINER_EXTRA_ARGS in {file}, line 7",
        "--lr_pwr",
        f"LORA_RANK in {file}, line 5",
        f"NUM_EPOCHS in {file}, line 8",
    ]


@pytest.mark.parametrize(
    ("line", "reason", "fix"),
    [
        ("export VALIDATION_PROMPT=a photo of a cat", "bash takes photo for the name", 'PROMPT="a photo of a cat"'),
        ("VALIDATION_PROMPT=a cat", "bash takes cat for a command", 'VALIDATION_PROMPT="a cat"'),
        ('export VALIDATION_PROMPT="a "red" cat"', "inner double quotes", '\\"'),
        ("set VALIDATION_STEPS=8", "`set` does not set a variable", "export VALIDATION_STEPS=8"),
        ("TRAINER_EXTRA_ARGS=(--seed=1)", "bash makes an array of it", 'TRAINER_EXTRA_ARGS="…"'),
        ("export TRAINER_EXTRA_ARGS+=(--seed=1)", "bash makes an array of it", 'TRAINER_EXTRA_ARGS="…"'),
        ("declare -a TRAINER_EXTRA_ARGS", "bash makes an array of it", 'TRAINER_EXTRA_ARGS="…"'),
        ('VALIDATION_PROMPT="a $100 bill"', "$1 for an argument", "\\$"),
    ],
)
def test_words_that_bash_would_lose_are_an_error(tmp_path: Path, line: str, reason: str, fix: str) -> None:
    (problem,) = problems(tmp_path, f"{line}\nSEED_OF_MINE=1\n")
    assert problem.option == f"{tmp_path / 'config.env'}, line 4"
    assert reason in problem.reason
    assert fix in problem.fix


def test_what_looks_alike_and_loses_nothing_is_read(tmp_path: Path) -> None:
    script = r"""
set -o pipefail
export VALIDATION_PROMPT='a $100 bill' A="$(echo hi | awk '{print $1}')" 2> /dev/null; export B="$A"/x/"y z"
C=\$1; D="a \$2 note"
export A B
paid() { echo "$1"; }
E=$(paid 7)
TZ=UTC true
"""
    found = variables(tmp_path, script)
    assert {name: found[name] for name in "ABCDE"} == {
        "A": "hi",
        "B": "hi/x/y z",
        "C": "$1",
        "D": "a $2 note",
        "E": "7",
    }
    assert found["VALIDATION_PROMPT"] == "a $100 bill"


def test_a_lost_word_beside_a_secret_does_not_show_it(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "export MY_TOKEN=hunter2hunter2 SOMETHING\n")
    assert "hunter2" not in str(problem)


@pytest.mark.parametrize("name", ["1", "__file", "__before", "__name"])
def test_nothing_of_the_reader_is_visible(tmp_path: Path, name: str) -> None:
    assert variables(tmp_path, f'show() {{ :; }}\nSEEN=$(eval "echo \\"\\${{{name}-}}\\"")\n')["SEEN"] == ""


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("A=1\n".encode("utf-16"), "UTF-16"),
        ("A=1\n".encode("utf-16-le"), "UTF-16"),
        ("B=2\nA='café'\n".encode("latin-1"), "not UTF-8"),
    ],
)
def test_another_encoding_is_one_clear_error(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        variables(tmp_path, content)
    (problem,) = caught.value.problems
    assert reason in problem.reason
    assert problem.fix == "save the file as UTF-8"


def test_a_comment_may_be_in_any_encoding(tmp_path: Path) -> None:
    assert variables(tmp_path, "# café\nA=1\n".encode("latin-1"))["A"] == "1"
