"""Everything that happens in a run and is worth telling, as frozen values."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A line for the person: `level` is info or warning."""

    text: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """Long work begins, of `total` units; 0 where the total is not known."""

    name: str
    total: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class StageAdvanced:
    """`count` more units of the stage are done."""

    name: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    """The stage is over; the peaks are its own (resident: the process's where the system cannot tell), device's too."""

    name: str
    seconds: float
    peak_memory_bytes: int
    peak_device_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class TrainingStarted:
    """The loop begins at optimiser step `first_step` (0 in a new run) of `total_steps`."""

    first_step: int
    total_steps: int
    steps_per_epoch: float
    images_per_step: int


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """Optimiser step `step` (from 1) of epoch `epoch` (from 0) is done; loss is the mean over its samples, in fp32."""

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    images: int


@dataclass(frozen=True, kw_only=True)
class PicturesDrawn:
    """Validation pictures were written; step 0 is the base model's."""

    step: int
    paths: tuple[Path, ...]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A complete checkpoint stands."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run is over, by itself or (`interrupted`) by a signal after which it can be continued.

    next_step: what the person may do now, in words.
    """

    step: int
    seconds: float
    written: tuple[Path, ...]
    interrupted: bool = False
    next_step: str = ""


Event = (
    Notice
    | StageStarted
    | StageAdvanced
    | StageFinished
    | TrainingStarted
    | StepFinished
    | PicturesDrawn
    | CheckpointSaved
    | RunFinished
)
