"""Reads what trackers wrote, with their own readers."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
PIECE_HEADER = struct.Struct("<IHB")


@dataclass
class WandbFile:
    """One file of an offline run. history: a row for each logged step."""

    id: str = ""
    name: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    exit_code: int | None = None


def wandb_files(logs: Path) -> list[WandbFile]:
    """The offline runs under `logs`, the first to begin first."""
    paths = sorted(logs.glob("wandb/offline-run-*/run-*.wandb"), key=lambda path: path.stat().st_mtime)
    return [_read_wandb(path) for path in paths]


def _read_wandb(path: Path) -> WandbFile:
    from wandb.proto import wandb_internal_pb2

    found = WandbFile()
    for data in _records(path.read_bytes()):
        record: Any = wandb_internal_pb2.Record()
        record.ParseFromString(data)
        match record.WhichOneof("record_type"):
            case "run":
                found.id, found.name, found.project = record.run.run_id, record.run.display_name, record.run.project
                found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
            case "config":
                found.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
            case "history":
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                found.history.append({key: json.loads(value) for key, value in row.items()})
            case "exit":
                found.exit_code = record.exit.exit_code
            case _:
                pass
    return found


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, which wandb writes after a header of its own and no longer reads.

    Blocks of 32 KiB hold pieces of records, each with checksum, length and kind (1 whole, 2 first, 3 middle, 4 last); a
    block's last bytes are left empty where no piece's header fits. What a killed writer left unfinished is left out.
    """
    place, pieces = len(b":W&B") + 3, b""
    while place + PIECE_HEADER.size <= len(content):
        room = BLOCK - place % BLOCK
        if room < PIECE_HEADER.size:
            place += room
            continue
        _, length, kind = PIECE_HEADER.unpack_from(content, place)
        place += PIECE_HEADER.size
        pieces = (pieces if kind in (3, 4) else b"") + content[place : place + length]
        place += length
        if kind in (1, 4) and place <= len(content):
            yield pieces


def tensorboard_scalars(folder: Path, *, name: str) -> list[tuple[int, float]]:
    """A figure by step as TensorBoard shows it, files of one folder taken together."""
    return [(event.step, event.value) for event in _accumulated(folder).Scalars(name)]


def tensorboard_images(folder: Path) -> dict[tuple[str, int], tuple[str, bytes]]:
    """Caption and PNG by name and step."""
    events = _accumulated(folder)
    return {
        (tag, image.step): (events.SummaryMetadata(tag).summary_description, image.encoded_image_string)
        for tag in events.Tags()["images"]
        for image in events.Images(tag)
    }


def tensorboard_texts(folder: Path) -> dict[str, str]:
    events = _accumulated(folder)
    return {tag: events.Tensors(tag)[-1].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}


def _accumulated(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    events.Reload()
    return events
