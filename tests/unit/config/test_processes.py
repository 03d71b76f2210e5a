"""What is asked of several processes that this program does not do is refused, before anything is loaded."""

import pytest

from helpers.config.everything import read_everything
from helpers.config.processes import DIVIDING_ENGINES
from helpers.errors import ConfigError


@pytest.mark.parametrize(("variable", "engine"), DIVIDING_ENGINES.items())
def test_an_engine_that_divides_the_model_is_refused_with_the_cure(
    variable: str, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "true")
    with pytest.raises(ConfigError) as error:
        read_everything(["--output_dir=somewhere"])
    assert f"divides the model by {engine}" in str(error.value)
    assert "documentation/DISTRIBUTED.md" in str(error.value)
    monkeypatch.setenv(variable, "false")
    with pytest.raises(ConfigError) as other:
        read_everything(["--output_dir=somewhere"])
    assert "divides the model" not in str(other.value)
