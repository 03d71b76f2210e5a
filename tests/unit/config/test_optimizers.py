"""Optimizers' own settings are read before anything is loaded, and the page about them says what is true."""

import re
import sys
from pathlib import Path

import pytest

from helpers.config.checks.warnings import warnings
from helpers.config.optimizers import KINDS
from helpers.config.option import written
from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError, Problem

LEAST = ("--pretrained_model_name_or_path=some/model", "--max_train_steps=1")
PAGE = Path(__file__).resolve().parents[3] / "documentation" / "OPTIMIZERS.md"


def problems_of(*words: str) -> tuple[Problem, ...]:
    with pytest.raises(ConfigError) as caught:
        parse_arguments([*LEAST, *words])
    return caught.value.problems


def test_settings_are_read_in_the_format_of_their_defaults() -> None:
    said = "--optimizer_config=weight_decay=0.1, beta2 = 0.95,precondition_frequency=5"
    settings = parse_arguments([*LEAST, "--optimizer=soap", said]).optimizer.settings
    changed = {"weight_decay": 0.1, "beta2": 0.95, "precondition_frequency": 5}
    assert settings == {option.name: option.default for option in KINDS["soap"].settings} | changed
    assert type(settings["precondition_frequency"]) is int


@pytest.mark.parametrize(
    ("said", "value", "reason", "fix"),
    [
        ("wieght_decay=0.1", "wieght_decay=0.1", "adamw has no setting of that name", "did you mean weight_decay?"),
        ("d_coef=2", "d_coef=2", "adamw has no setting", "use one of weight_decay, beta1, beta2, eps"),
        ("beta1=much", "beta1=much", "it is not a number", "use a number from 0 to"),
        ("beta1=1.5", "beta1=1.5", "must be a number from 0", "use a number"),
        ("weight_decay", "weight_decay=", "it is empty", "use a number of at least 0"),
        ("betas=0.9,0.99", "betas=0.9", "has no setting", "did you mean beta"),
        ("eps=1e-6,eps=1e-8", "eps=1e-8", "set twice", "set it once"),
    ],
)
def test_a_setting_that_cannot_be_is_told_with_its_cure(said: str, value: str, reason: str, fix: str) -> None:
    problem = problems_of(f"--optimizer_config={said}")[0]
    assert (problem.option, problem.value) == ("OPTIMIZER_CONFIG", value)
    assert reason in problem.reason
    assert fix in problem.fix


@pytest.mark.parametrize("name", KINDS)
def test_no_optimizer_takes_a_name_that_it_does_not_have_or_a_value_of_another_kind(name: str) -> None:
    wrong = {"momentun": "0.9"} | {option.name: "0.5.1" for option in KINDS[name].settings}
    wrong |= {option.name: "2.5" for option in KINDS[name].settings if option.kind is int}
    said = ",".join(f"{key}={value}" for key, value in wrong.items())
    problems = problems_of(f"--optimizer={name}", f"--optimizer_config={said}")
    judged = [problem.value for problem in problems if problem.option == "OPTIMIZER_CONFIG"]
    assert judged == [f"{key}={value}" for key, value in wrong.items()]


def test_settings_of_an_optimizer_that_is_not_there_are_not_judged() -> None:
    (problem,) = problems_of("--optimizer=prodigyy", "--optimizer_config=d_coef=2")
    assert (problem.option, problem.fix) == ("--optimizer", "did you mean prodigy?")


def test_a_library_that_is_lacking_is_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    (problem,) = problems_of("--use_8bit_adam")
    assert (problem.option, problem.value) == ("OPTIMIZER", "adamw8bit")
    assert "pip install bitsandbytes" in problem.fix


def test_an_average_of_an_average_is_refused() -> None:
    (problem,) = problems_of("--optimizer=adamw_schedulefree", "--use_ema")
    assert (problem.option, problem.fix) == ("USE_EMA", "leave it out, or set OPTIMIZER=adamw")


@pytest.mark.parametrize(
    ("words", "remark"),
    [
        (["--optimizer=adamw_schedulefree", "--lr_scheduler=cosine"], "not needed with adamw_schedulefree"),
        (["--optimizer=dadaptation", "--learning_rate=0.5"], "multiplies the rate that dadaptation finds itself"),
        (["--optimizer=lion", "--learning_rate=3e-4"], "a third to a tenth of adamw's"),
        (["--optimizer=soap", "--model_type=full"], "max_precondition_dim=2500"),
    ],
)
def test_settings_that_are_seldom_meant_are_remarked_upon(words: list[str], remark: str) -> None:
    assert any(remark in line for line in warnings(parse_arguments([*LEAST, *words])))
    optimizer = words[0].partition("=")[2]
    usual = ["--learning_rate=1e-5"] if optimizer == "lion" else []
    assert not any(remark in line for line in warnings(parse_arguments([*LEAST, words[0], *usual])))


def test_the_page_says_what_is_declared() -> None:
    text = PAGE.read_text()
    for kind in KINDS.values():
        during = "yes" if kind.supports_fused_backward else "no"
        assert f"| `{kind.name}` | {kind.summary} | {kind.state_bytes_per_param} bytes | {during} |" in text
        (row,) = re.findall(rf"^\| `{kind.name}` \| (`.*`) \|$", text, flags=re.MULTILINE)
        assert row == ", ".join(f"`{option.name}={written(option.default)}`" for option in kind.settings)
