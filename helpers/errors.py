"""Errors that you can cause and fix; any other exception is a bug.

`train.py` prints only the message of a `UserError` and exits with a nonzero status.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One invalid setting: the option, its value, the reason and the fix."""

    option: str
    value: str
    reason: str
    fix: str

    def __str__(self) -> str:
        value = f" = {self.value}" if self.value else ""
        return f"{self.option}{value}\n    why: {self.reason}\n    fix: {self.fix}"


class UserError(Exception):
    """An error that you can fix; the message says how.

    on_every_rank: whether every process of a run raises it, so that only the first one reports it.
    """

    on_every_rank = False


class ConfigError(UserError):
    """All problems with the settings, in one message."""

    on_every_rank = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        assert problems, "a ConfigError lists at least one problem"
        self.problems = tuple(problems)
        count = "one setting needs" if len(self.problems) == 1 else f"{len(self.problems)} settings need"
        super().__init__(f"{count} a change before training can start:\n{numbered(problems)}")


def numbered(problems: Sequence[Problem]) -> str:
    """The problems as a numbered list, as text."""
    return "\n".join(f"  {number}. {problem}" for number, problem in enumerate(problems, 1))


class DataError(UserError):
    """A dataset that cannot be used for training."""


class CacheError(UserError):
    """A cache that cannot be written or read."""


class ModelError(UserError):
    """A model that cannot be found, read or used."""


class BrokenModelError(ModelError):
    """All problems with the files of a model, in one message."""

    on_every_rank = True

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"the model's files cannot be used:\n{numbered(problems)}")


class CheckpointError(UserError):
    """A checkpoint that cannot be written, read or resumed from."""

    on_every_rank = True


class TrainingError(UserError):
    """A run that cannot continue, for example because the loss is NaN."""


class NonFiniteLossError(TrainingError):
    """A loss or gradient that is NaN or infinite; raised in all processes."""

    on_every_rank = True


class LostRankError(UserError):
    """Another process of the run has ended."""

    on_every_rank = True


class ReportingError(UserError):
    """A tracker or webhook that cannot be reached."""
