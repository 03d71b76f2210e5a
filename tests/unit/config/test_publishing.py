"""What is wrong with the settings of publishing is told before anything begins."""

import pytest

from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError, Problem

LEAST = ("--pretrained_model_name_or_path=some/model", "--max_train_steps=1")


def problems_of(*words: str) -> tuple[Problem, ...]:
    try:
        parse_arguments([*LEAST, *words])
    except ConfigError as error:
        return error.problems
    return ()


def test_publishing_needs_a_name_and_proposes_one() -> None:
    (problem,) = problems_of("--push_to_hub", "--output_dir=output/my cats!")
    assert (problem.option, problem.fix) == ("HUB_MODEL_NAME", "set HUB_MODEL_NAME=my-cats or similar")


@pytest.mark.parametrize("name", ["a b", "a/b/c", "-a", "a--b", "a..b", "a.git", "a/", "/a", "ä", "a" * 97])
def test_names_that_the_hub_would_refuse(name: str) -> None:
    (problem,) = problems_of("--push_to_hub", f"--hub_model_id={name}")
    assert problem.option == "HUB_MODEL_NAME"


@pytest.mark.parametrize("name", ["a", "my-cats_2.0", "me/my-cats", "a" * 96])
def test_names_that_the_hub_allows(name: str) -> None:
    assert not problems_of("--push_to_hub", f"--hub_model_id={name}")


def test_private_unless_said_otherwise() -> None:
    publishing = parse_arguments([*LEAST, "--push_to_hub", "--hub_model_id=a"]).publishing
    assert publishing.hub_private
    assert not publishing.push_checkpoints_to_hub


def test_details_of_what_is_not_published_are_told_to_do_nothing(caplog: pytest.LogCaptureFixture) -> None:
    parse_arguments([*LEAST, "--push_checkpoints_to_hub", "--hub_private=false", "--hub_model_id=a"])
    assert caplog.messages == [
        "PUSH_CHECKPOINTS=true has no effect with PUSH_TO_HUB=false",
        "HUB_PRIVATE=false has no effect with PUSH_TO_HUB=false",
    ]
