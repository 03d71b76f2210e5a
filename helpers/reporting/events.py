"""The events of a run that are reported, as frozen dataclasses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Notice:
    """A line of text for you; `level` is `info` or `warning`."""

    text: str
    level: str = "info"


@dataclass(frozen=True, kw_only=True)
class StageStarted:
    """A long task started, of `total` units; 0 if the total is not known."""

    name: str
    total: int
    unit: str


@dataclass(frozen=True, kw_only=True)
class StageAdvanced:
    """`count` more units of the stage were completed."""

    name: str
    count: int = 1


@dataclass(frozen=True, kw_only=True)
class StageFinished:
    """The stage finished; the peaks are those of the stage.

    peak_memory_bytes: resident memory; the whole process's peak if the system does not measure it per stage.
    peak_device_memory_bytes: PyTorch's tensors. peak_reserved_memory_bytes: all device memory that PyTorch reserved.
    """

    name: str
    seconds: float
    peak_memory_bytes: int
    peak_device_memory_bytes: int = 0
    peak_reserved_memory_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Change:
    """A setting, or something else that a run depends on, that changed since an earlier start. effect: the result."""

    name: str
    before: str
    now: str
    effect: str = ""

    def __str__(self) -> str:
        effect = f"; {self.effect}" if self.effect else ""
        return f"{self.name}: {self.before or 'none'} before, {self.now or 'none'} now{effect}"


@dataclass(frozen=True, kw_only=True)
class RunStarted:
    """Everything is loaded and training is about to begin; describes the run, sent once.

    model_type: `lora` or `full`. trainable_parameters: their number. settings: every setting by group and name.
    datasets: the number of images by dataset id. first_step: optimizer steps already done, 0 in a new run.
    changes: since the checkpoint that the run resumes from. base_variant: for example `SD3 medium`.
    base_folder: the folder of the base model's files. trained: what is trained, in words.
    result: the file or folder in output_dir that a finished run writes. pipeline_class: diffusers' class of the base.
    hub_tag: of its family. known_licenses: see `license_of`. text_options: the `text` settings that the family uses.
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
    text_options: tuple[str, ...] = ()
    trained: str = ""
    result: str = ""


@dataclass(frozen=True, kw_only=True)
class TrainingStarted:
    """The training loop starts after optimizer step `first_step` (0 in a new run) of `total_steps`."""

    first_step: int
    total_steps: int
    steps_per_epoch: float
    images_per_step: int


@dataclass(frozen=True, kw_only=True)
class MemoryUse:
    """Memory in bytes.

    peak_bytes: the process's peak since training started. device_bytes: PyTorch's tensors on the device now.
    peak_device_bytes: their peak. peak_reserved_bytes: the peak that PyTorch reserved on the device, in use or not.
    """

    peak_bytes: int = 0
    device_bytes: int = 0
    peak_device_bytes: int = 0
    peak_reserved_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class SigmaLoss:
    """The loss of a step's samples whose noise level σ is in a range; only for ranges with samples.

    low, high: the range. loss, sigma: means over the range's `samples`.
    """

    low: float
    high: float
    loss: float
    sigma: float
    samples: int


@dataclass(frozen=True, kw_only=True)
class StepFinished:
    """Optimizer step `step` (from 1) of epoch `epoch` (from 0) is done; loss is the mean over its samples, in fp32.

    images: on all ranks. by_sigma: the loss by noise level, on all ranks. seconds: the duration of the step, with its
    wait for data but without the work between steps; 0 if not measured.
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
    """Validation images were saved, each with the caption it was generated from; step 0 is the base model."""

    step: int
    paths: tuple[Path, ...]
    captions: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class MetricsMeasured:
    """The metrics of an evaluator after optimizer step `step`; step 0 is the base model.

    evaluator: its name, such as `validation loss`. metrics: by tracker name, such as `held_out/mean`, most important
    first; a name that ends in a range, such as `held_out/0.00-0.25`, is the value at those noise levels.
    """

    step: int
    evaluator: str
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class CheckpointSaved:
    """A complete checkpoint was saved."""

    step: int
    path: Path


@dataclass(frozen=True, kw_only=True)
class RunFinished:
    """The run finished, or was `interrupted` by a signal and can be resumed.

    exported: the files of `written` that hold the trained weights, in every requested format.
    next_step: what you can do next, in words.
    """

    step: int
    seconds: float
    written: tuple[Path, ...]
    interrupted: bool = False
    next_step: str = ""
    exported: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RunFailed:
    """The run failed: the error message, and the traceback if it is a bug."""

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
