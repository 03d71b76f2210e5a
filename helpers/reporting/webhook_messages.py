"""What a webhook is told of an event: words and attached images for Discord, fields and images for anyone else."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config.files.webhook import Webhook
from helpers.reporting import format as figures
from helpers.reporting.events import (
    CheckpointSaved,
    Event,
    HeldOutLoss,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    ValidationImagesSaved,
)

DISCORD_CHARACTERS = 2000
IMAGES_A_MESSAGE = 10
BYTES_A_MESSAGE = 8_000_000
"""What Discord takes from anybody in one message."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """What is posted: JSON, and files beside it."""

    payload: dict[str, Any]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """An event in words and in fields. kind: one of `webhook_file.EVENTS`."""

    kind: str
    words: str
    fields: dict[str, Any]
    images: tuple[tuple[Path, str], ...] = ()


def messages_of(event: Event, *, webhook: Webhook, run_name: str) -> Iterator[Message]:
    """The messages that an event is worth to `webhook`, mostly one or none."""
    told = _told(event, progress_steps=webhook.progress_steps)
    if told is None or told.kind not in webhook.events:
        return
    for number, images in enumerate(_portions(told.images)):
        if webhook.kind == "discord":
            words = told.words if not number else ""
            yield _discord(words, images=images, prefix=webhook.message_prefix, run_name=run_name)
        else:
            yield _raw(told, images=images, prefix=webhook.message_prefix, run_name=run_name)


def _told(event: Event, *, progress_steps: int) -> WebhookEvent | None:
    match event:
        case RunStarted():
            image_count = sum(event.datasets.values())
            words = (
                f"training a {event.model_type} of {event.base_model} on {figures.counted(image_count, 'images')},"
                f" {event.total_steps:,} steps"
            )
            words += f", going on after step {event.first_step:,}" if event.first_step else ""
            fields = {"base_model": event.base_model, "model_type": event.model_type, "images": image_count}
            fields |= {"first_step": event.first_step, "total_steps": event.total_steps}
            return WebhookEvent(kind="start", words=words, fields=fields)
        case StepFinished() if event.step % progress_steps == 0:
            fields = {"step": event.step, "epoch": event.epoch + 1, "loss": event.loss}
            fields |= {"learning_rate": event.learning_rate, "seconds_per_step": event.seconds}
            words = f"step {event.step:,}, epoch {event.epoch + 1:,}: loss {event.loss:.4f}"
            return WebhookEvent(kind="progress", words=words, fields=fields)
        case HeldOutLoss():
            fields = {"step": event.step, "held_out_loss": event.mean, "held_out_loss_of_base": event.base_mean}
            words = f"validation loss after step {event.step:,}: {event.mean:.4f}"
            return WebhookEvent(kind="progress", words=words, fields=fields)
        case ValidationImagesSaved():
            of_what = f"at step {event.step:,}" if event.step else "of the base model"
            captions = event.captions or ("",) * len(event.paths)
            words = "\n".join([f"images {of_what}:", *dict.fromkeys(captions)])
            images = tuple(zip(event.paths, captions, strict=True))
            return WebhookEvent(kind="images", words=words, fields={"step": event.step}, images=images)
        case CheckpointSaved():
            fields = {"step": event.step, "checkpoint": event.path.name}
            return WebhookEvent(kind="checkpoints", words=f"checkpoint at step {event.step:,}", fields=fields)
        case RunFailed():
            return WebhookEvent(kind="errors", words=f"failed: {event.message}", fields={"text": event.message})
        case RunFinished():
            how = "stopped" if event.interrupted else "finished"
            words = f"{how} after step {event.step:,}, in {figures.duration(event.seconds)}"
            fields = {"step": event.step, "seconds": round(event.seconds, 1), "interrupted": event.interrupted}
            return WebhookEvent(kind="end", words=words, fields=fields)
        case _:
            return None


def _portions(images: Sequence[tuple[Path, str]]) -> Iterator[tuple[tuple[Path, str], ...]]:
    """`images` in portions that one message holds, at least one; an image that is too large for any is left out."""
    portion: list[tuple[Path, str]] = []
    room, is_first = BYTES_A_MESSAGE, True
    for image in images:
        size = image[0].stat().st_size
        if size > BYTES_A_MESSAGE:
            continue
        if len(portion) == IMAGES_A_MESSAGE or size > room:
            yield tuple(portion)
            portion, room, is_first = [], BYTES_A_MESSAGE, False
        portion.append(image)
        room -= size
    if portion or is_first:
        yield tuple(portion)


def _discord(words: str, *, images: Sequence[tuple[Path, str]], prefix: str, run_name: str) -> Message:
    text = " ".join(filter(None, [prefix, f"[{run_name}]", words]))
    cut = text if len(text) <= DISCORD_CHARACTERS else f"{text[: DISCORD_CHARACTERS - 1]}…"
    # A prompt that says @everyone calls nobody.
    payload: dict[str, Any] = {"content": cut, "allowed_mentions": {"parse": []}}
    if images:
        payload["attachments"] = [
            {"id": number, "filename": path.name, "description": caption[:1024]}
            for number, (path, caption) in enumerate(images)
        ]
    return Message(payload=payload, files=tuple(path for path, _ in images))


def _raw(told: WebhookEvent, *, images: Sequence[tuple[Path, str]], prefix: str, run_name: str) -> Message:
    text = " ".join(filter(None, [prefix, told.words]))
    payload = {"event": told.kind, "run": run_name, "text": text, **told.fields}
    if images:
        payload["images"] = [
            {"name": path.name, "caption": caption, "png": base64.b64encode(path.read_bytes()).decode()}
            for path, caption in images
        ]
    return Message(payload=payload)
