"""TensorBoard: metrics, images with captions, and settings, as event files that `tensorboard --logdir` shows."""

import json
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helpers.reporting.events import Event, MetricsMeasured, RunStarted, StepFinished, ValidationImagesSaved
from helpers.reporting.trackers.metrics import step_metrics
from helpers.reporting.trackers.run_id import RunRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FLUSH_SECONDS = 10
RGB = 3


class TensorboardTracker:
    """A listener that writes event files; a resumed run continues in the folder of the one it resumes.

    Files go to `folder`/tensorboard/`name`.
    """

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder, self._name = folder, name
        self._record = RunRecord(folder / "tensorboard-run.json")
        self._writer: SummaryWriter | None = None

    def handle(self, event: Event) -> None:
        if isinstance(event, RunStarted):
            self._writer = self._open(event)
        elif self._writer is not None:
            _write(event, writer=self._writer)

    def close(self) -> None:
        """Write everything to disk."""
        if self._writer is not None:
            self._writer.close()

    def _open(self, event: RunStarted) -> "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        tracked = self._record.begin(event, name=self._name)
        folder = self._folder / "tensorboard" / tracked.name.replace("/", "-")
        # Readers drop what an earlier start wrote from this step on: a resumed run takes those steps again.
        first = event.first_step + 1 if event.first_step else 0
        writer = SummaryWriter(str(folder), purge_step=first, flush_secs=FLUSH_SECONDS)
        writer.add_text("settings", _settings_table(event), first)
        return writer


def _write(event: Event, *, writer: "SummaryWriter") -> None:
    match event:
        case StepFinished():
            for name, value in step_metrics(event).items():
                writer.add_scalar(name, value, event.step)
        case MetricsMeasured():
            for name, value in event.metrics.items():
                writer.add_scalar(name, value, event.step)
        case ValidationImagesSaved():
            captions = event.captions or ("",) * len(event.paths)
            for path, caption in zip(event.paths, captions, strict=True):
                _add_image(path, caption=caption, step=event.step, writer=writer)
        case _:
            pass


def _add_image(path: Path, *, caption: str, step: int, writer: "SummaryWriter") -> None:
    """Add a PNG file as it is, its caption as TensorBoard's description (`add_image` takes none)."""
    # TensorBoard generates these classes at import, so they have no static types.
    from tensorboard.compat.proto import summary_pb2

    messages: Any = summary_pb2
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    image = messages.Summary.Image(width=width, height=height, colorspace=RGB, encoded_image_string=content)
    metadata = messages.SummaryMetadata(display_name=path.stem, summary_description=caption)
    value = messages.Summary.Value(tag=f"validation/{path.stem}", image=image, metadata=metadata)
    assert writer.file_writer is not None, "it is open until the writer is closed"
    writer.file_writer.add_summary(messages.Summary(value=[value]), step)


def _settings_table(event: RunStarted) -> str:
    rows = [("base model", event.base_model)]
    rows += [(f"dataset {name}", f"{count} images") for name, count in event.datasets.items()]
    rows += [(name, json.dumps(value)) for group in event.settings.values() for name, value in group.items()]
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
