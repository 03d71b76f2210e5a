"""Which settings of speed and memory go together, by what a person is told."""

import pytest

from helpers.config.checks.config import check
from helpers.config.checks.warnings import warnings
from helpers.config.parse import RawSetting, read_settings
from helpers.config.train_config import RunConfig

BASE = {"max_train_steps": "1"}


def config(**said: str) -> RunConfig:
    reading = read_settings([RawSetting(name=name, text=text, spelled=name) for name, text in {**BASE, **said}.items()])
    return reading.config()


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ({"model_type": "full"}, "MODEL_TYPE=full"),
        ({"gradient_checkpointing": "false"}, "gradient checkpointing"),
        ({"gradient_checkpointing_interval": "2"}, "GRADIENT_CHECKPOINTING_INTERVAL=2"),
        ({}, ""),
    ],
    ids=str,
)
def test_blocks_can_wait_elsewhere_only_where_they_come_back_to_be_computed_again(
    beside: dict[str, str], named: str
) -> None:
    found = [problem for problem in check(config(offload_blocks="4", **beside)) if problem.option == "OFFLOAD_BLOCKS"]
    assert [named in problem.reason for problem in found] == ([True] if named else [])


def test_an_interval_of_nothing_is_remarked() -> None:
    said = config(gradient_checkpointing_interval="2", gradient_checkpointing="false")
    assert any("GRADIENT_CHECKPOINTING_INTERVAL=2 has no effect" in line for line in warnings(said))
