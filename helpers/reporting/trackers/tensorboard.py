"""TensorBoard: figures, images with captions and settings, as event files that `tensorboard --logdir` shows."""

import json
import struct
import time
from pathlib import Path
from typing import Any

from helpers.reporting.events import Event, HeldOutLoss, RunStarted, StepFinished, ValidationImagesSaved
from helpers.reporting.trackers.metrics import held_out_scalars, step_metrics
from helpers.reporting.trackers.run_id import RunRecord

FILE_VERSION = "brain.Event:2"
FLUSH_SECONDS = 10
COLORS = 3


class TensorboardTracker:
    """A listener that writes event files; a resumed run goes on in the folder of the one it continues."""

    def __init__(self, folder: Path, *, name: str) -> None:
        self._folder, self._name = folder, name
        self._record = RunRecord(folder / "tensorboard-run.json")
        self._writer: Any = None

    def handle(self, event: Event) -> None:
        match event:
            case RunStarted():
                self._begin(event)
            case StepFinished() if self._writer is not None:
                self._write(event.step, [_scalar(name, value) for name, value in step_metrics(event).items()])
            case HeldOutLoss() if self._writer is not None:
                self._write(event.step, [_scalar(name, value) for name, value in held_out_scalars(event).items()])
            case ValidationImagesSaved() if self._writer is not None:
                captions = event.captions or ("",) * len(event.paths)
                pairs = zip(event.paths, captions, strict=True)
                self._write(event.step, [_image(path, caption=caption) for path, caption in pairs])
            case _:
                pass

    def close(self) -> None:
        """Let all that was told be on the disk."""
        if self._writer is not None:
            self._writer.close()

    def _begin(self, event: RunStarted) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        tracked = self._record.begin(event, name=self._name)
        folder = self._folder / "tensorboard" / tracked.name.replace("/", "-")
        self._writer = EventFileWriter(str(folder), flush_secs=FLUSH_SECONDS)
        # What an earlier start wrote of steps from here on is left out by readers: they come again.
        begin = event.first_step + 1 if event.first_step else 0
        events = _events()
        self._add(begin, file_version=FILE_VERSION)
        self._add(begin, session_log=events.SessionLog(status=events.SessionLog.START))
        self._write(begin, [_text("settings", _settings_table(event))])

    def _write(self, step: int, values: list[Any]) -> None:
        self._add(step, summary=_summaries().Summary(value=values))

    def _add(self, step: int, **what: Any) -> None:
        self._writer.add_event(_events().Event(wall_time=time.time(), step=step, **what))


def _events() -> Any:
    """TensorBoard's messages of this kind; they are made as the module is loaded, and so have no types."""
    from tensorboard.compat.proto import event_pb2

    return event_pb2


def _summaries() -> Any:
    """As above."""
    from tensorboard.compat.proto import summary_pb2

    return summary_pb2


def _scalar(name: str, value: float) -> Any:
    return _summaries().Summary.Value(tag=name, simple_value=value)


def _image(path: Path, *, caption: str) -> Any:
    """The PNG file as it is, its caption being what TensorBoard calls its description."""
    messages = _summaries()
    content = path.read_bytes()
    width, height = struct.unpack(">II", content[16:24])
    image = messages.Summary.Image(width=width, height=height, colorspace=COLORS, encoded_image_string=content)
    metadata = messages.SummaryMetadata(display_name=path.stem, summary_description=caption)
    return messages.Summary.Value(tag=f"validation/{path.stem}", image=image, metadata=metadata)


def _text(name: str, text: str) -> Any:
    """A text in markdown."""
    from tensorboard.util.tensor_util import make_tensor_proto

    messages = _summaries()
    plugin = messages.SummaryMetadata.PluginData(plugin_name="text")
    metadata = messages.SummaryMetadata(plugin_data=plugin)
    return messages.Summary.Value(tag=f"{name}/text_summary", tensor=make_tensor_proto([text]), metadata=metadata)


def _settings_table(event: RunStarted) -> str:
    rows = [("base model", event.base_model)]
    rows += [(f"dataset {name}", f"{count} images") for name, count in event.datasets.items()]
    rows += [(name, json.dumps(value)) for group in event.settings.values() for name, value in group.items()]
    return "\n".join(["| setting | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
