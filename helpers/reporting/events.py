"""Everything that happens in a run and is worth telling, as frozen values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


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
    """The stage is over; the peaks are its own (resident: the process's where the system cannot tell), device's too.

    peak_device_memory_bytes: PyTorch's tensors; peak_reserved_memory_bytes: all that PyTorch held of the device.
    """

    name: str
    seconds: float
    peak_memory_bytes: int
    peak_device_memory_bytes: int = 0
    peak_reserved_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting, or something else that a run depends on, that differs from an earlier start. effect: what follows."""

    name: str
    before: str
    now: str
    effect: str = ""

    def __str__(self) -> str:
        effect = f"; {self.effect}" if self.effect else ""
        return f"{self.name}: {self.before or 'none'} before, {self.now or 'none'} now{effect}"


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """All is loaded and training is about to begin; what this run is, told once.

    model_type: what is trained, `lora` or `full`, with so many numbers that move. settings: every setting by group and
    name. datasets: images by dataset id. first_step: the optimizer steps done before, 0 in a new run. changes: those
    since the checkpoint that is continued. base_variant: such as `SD3 medium`; base_folder: where the base's files are.
    pipeline_class: diffusers' class of the base; hub_tag: of its family; known_licenses: see `license_of`.
    trained: what moves, in words. result: the file or folder in output_dir that a finished run leaves.
    """

    base_model: str
    model_type: str
    trainable_parameters: int
    settings: Mapping[str, Mapping[str, Any]]
    datasets: Mapping[str, int]
    output_dir: Path
    first_step: int
    total_steps: int
    changes: tuple[Change, ...] = ()
    base_variant: str = ""
    base_folder: Path | None = None
    pipeline_class: str = "DiffusionPipeline"
    hub_tag: str = ""
    known_licenses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    trained: str = ""
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingStarted:
    """The loop begins at optimizer step `first_step` (0 in a new run) of `total_steps`."""

    first_step: int
    total_steps: int
    steps_per_epoch: float
    images_per_step: int


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Bytes: the process's highest since training began, PyTorch's on the device now, and its highest there.

    peak_reserved_bytes: the most that PyTorch held of the device, in use or not.
    """

    peak_bytes: int = 0
    device_bytes: int = 0
    peak_device_bytes: int = 0
    peak_reserved_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class SigmaLoss:
    """The loss of a step's samples whose noise level σ is in a range; only of ranges that had samples.

    low, high: the range. loss, sigma: means over its `samples`.
    """

    low: float
    high: float
    loss: float
    sigma: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """Optimizer step `step` (from 1) of epoch `epoch` (from 0) is done; loss is the mean over its samples, in fp32.

    images: of all ranks. by_sigma: the loss by noise level, of all ranks. seconds: the step's own, its wait for data
    included, duties between steps not; 0 where nobody measured.
    """

    step: int
    epoch: int
    loss: float
    learning_rate: float
    gradient_norm: float
    images: int
    by_sigma: tuple[SigmaLoss, ...] = ()
    seconds: float = 0.0
    memory: MemoryUse = MemoryUse()


@dataclass(frozen=True, kw_only=True)
class ValidationImagesSaved:
    """Validation images were written, each with the caption it was drawn from; step 0 is the base model's."""

    step: int
    paths: tuple[Path, ...]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricsMeasured:
    """An evaluator measured something after optimizer step `step`; step 0 is the base model.

    evaluator: its name, such as `validation loss`. metrics: by tracker name, such as `held_out/mean`, the most
    important first; a name that ends in a range, such as `held_out/0.00-0.25`, is the value at these noise levels.
    """

    step: int
    evaluator: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A complete checkpoint stands."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run is over, by itself or (`interrupted`) by a signal after which it can be continued.

    exported: what of `written` is the finished weights, in every form that was asked for.
    next_step: what the person may do now, in words.
    """

    step: int
    seconds: float
    written: tuple[Path, ...]
    interrupted: bool = False
    next_step: str = ""
    exported: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """The run ended in an error: what a person is told, and of a bug of ours the traceback."""

    message: str
    traceback: str = ""


Event = (
    Notice
    | StageStarted
    | StageAdvanced
    | StageFinished
    | RunStarted
    | TrainingStarted
    | StepFinished
    | ValidationImagesSaved
    | MetricsMeasured
    | CheckpointSaved
    | RunFinished
    | RunFailed
)
