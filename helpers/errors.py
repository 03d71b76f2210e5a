"""The errors a person can cause and fix; anything else that is raised is a bug of ours.

`train.py` shows a `UserError` as its message alone and exits with a status that is not 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with what the user said: where, what, why, and the fix."""

    option: str
    value: str
    reason: str
    fix: str

    def __str__(self) -> str:
        said = f" = {self.value}" if self.value else ""
        return f"{self.option}{said}\n    why:  {self.reason}\n    fix: {self.fix}"


class UserError(Exception):
    """A failure the user can fix; its message says how.

    on_every_rank: whether each process of a run meets it alike, so that only the first one tells it.
    """

    on_every_rank = False


class ConfigError(UserError):
    """Everything wrong with the settings, shown together."""

    on_every_rank = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a ConfigError lists at least one problem"
        self.problems = tuple(problems)
        count = "one setting needs" if len(self.problems) == 1 else f"{len(self.problems)} settings need"
        super().__init__(f"{count} a change before training can start:\n{numbered(problems)}")


def numbered(problems: Sequence[Problem]) -> str:
    """All of them, each with its number, as lines."""
    return "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))


class DataError(UserError):
    """A dataset that cannot be trained on as it is."""


class CacheError(UserError):
    """A cache that cannot be written or read."""


class ModelError(UserError):
    """A model that cannot be found, read or used."""


class BrokenModelError(ModelError):
    """Everything wrong with the files of a model, shown together."""

    on_every_rank = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"the model cannot be used as its files are:\n{numbered(problems)}")


class CheckpointError(UserError):
    """A checkpoint that cannot be written, read or continued from."""

    on_every_rank = True


class TrainingError(UserError):
    """A run that cannot go on, such as a loss that is no longer a number."""


class NonFiniteLossError(TrainingError):
    """A loss or a gradient that is no number, which all processes are told of."""

    on_every_rank = True


class LostRankError(UserError):
    """Another process of the run has ended."""

    on_every_rank = True


class ReportingError(UserError):
    """Someone who was to be told of a run cannot be reached."""
