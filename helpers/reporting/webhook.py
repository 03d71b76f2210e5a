"""Sends messages about a run to a webhook: text with attached images to Discord, JSON fields to other receivers.

Networks are slow, so the sender runs on the thread of a `BackgroundListener`.
"""

import base64
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config.files.webhook import Webhook
from helpers.errors import ReportingError
from helpers.reporting.events import (
    CheckpointSaved,
    Event,
    MetricsMeasured,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    ValidationImagesSaved,
)
from helpers.reporting.format import format_count, format_duration
from helpers.reporting.metrics_text import metrics_text

logger = logging.getLogger(__name__)

ATTEMPTS = 4
BACK_OFF_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
TOO_MANY = 429
GONE = (401, 403, 404, 410)
"""Status codes after which it is useless to try the address again."""

FAILURES_IN_A_ROW = 3


DISCORD_CHARACTERS = 2000
IMAGES_PER_MESSAGE = 10
BYTES_PER_MESSAGE = 8_000_000
"""Discord's limits for one message."""

FIELD_NAMES = {"held_out/mean": "held_out_loss", "held_out/base_mean": "held_out_loss_of_base"}
"""The fields of a webhook's JSON that have other names than the trackers' metrics."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request: a JSON payload, and files to attach."""

    payload: dict[str, Any]
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WebhookEvent:
    """An event as text and as JSON fields. kind: one of `EVENTS` in `helpers.config.files.webhook`."""

    kind: str
    words: str
    fields: dict[str, Any]
    images: tuple[tuple[Path, str], ...] = ()


class WebhookSender:
    """A listener that posts the events that `webhook` asks for; it respects the server's rate limits, and retries.

    Raises ReportingError if the server refuses the address, or after several lost messages in a row, without naming the
    address.
    """

    def __init__(self, webhook: Webhook, *, run_name: str, back_off_seconds: float = BACK_OFF_SECONDS) -> None:
        import httpx

        self._webhook, self._run_name = webhook, run_name
        self._back_off_seconds = back_off_seconds
        self._client = httpx.Client(timeout=TIMEOUT_SECONDS)
        self._not_before = 0.0
        self._failures = 0

    def handle(self, event: Event) -> None:
        for message in messages_of(event, webhook=self._webhook, run_name=self._run_name):
            self._send(message)

    def close(self) -> None:
        self._client.close()

    def _send(self, message: Message) -> None:
        problem = ""
        for attempt in range(ATTEMPTS):
            time.sleep(max(0.0, self._not_before - time.monotonic()))
            problem, pause = self._post(message)
            if not problem:
                self._failures = 0
                return
            self._not_before = time.monotonic() + max(pause, self._back_off_seconds * 2**attempt)
        self._failures += 1
        logger.warning(f"the webhook did not accept a message in {ATTEMPTS} attempts: {problem}")
        if self._failures >= FAILURES_IN_A_ROW:
            raise ReportingError(f"{self._failures} messages in a row did not arrive, the last one because {problem}")

    def _post(self, message: Message) -> tuple[str, float]:
        """Send once; returns the problem (empty if there is none) and the seconds to wait before the next attempt."""
        import httpx

        try:
            answer = self._client.post(self._webhook.url, **_request(message))
        except httpx.HTTPError as error:  # its text may contain the address
            return f"there was no answer ({type(error).__name__})", 0.0
        if answer.is_success:
            self._respect_limit(answer.headers)
            return "", 0.0
        if answer.status_code in GONE:
            raise ReportingError(f"it answered with status {answer.status_code}: does it still exist?")
        return f"it answered with status {answer.status_code}", _seconds_to_wait(answer)

    def _respect_limit(self, headers: Any) -> None:
        """Wait before the next message if Discord's rate limit is used up."""
        if headers.get("X-RateLimit-Remaining") == "0":
            self._not_before = time.monotonic() + _number(headers.get("X-RateLimit-Reset-After"))


def _request(message: Message) -> dict[str, Any]:
    """The arguments for httpx: JSON alone, or a form with the JSON and the files, as Discord expects it."""
    if not message.files:
        return {"json": message.payload}
    files = {
        f"files[{number}]": (path.name, path.read_bytes(), "image/png") for number, path in enumerate(message.files)
    }
    return {"data": {"payload_json": json.dumps(message.payload)}, "files": files}


def _seconds_to_wait(answer: Any) -> float:
    """The seconds that the server asks to wait: from the Retry-After header, or from the body of Discord's answer."""
    seconds = _number(answer.headers.get("Retry-After"))
    if not seconds and answer.status_code == TOO_MANY:
        try:
            seconds = _number(answer.json().get("retry_after"))
        except (ValueError, AttributeError):
            seconds = 0.0
    return seconds


def _number(value: Any) -> float:
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        return 0.0


def messages_of(event: Event, *, webhook: Webhook, run_name: str) -> Iterator[Message]:
    """The messages that `webhook` sends for an event, usually one or none."""
    described = _describe(event, progress_steps=webhook.progress_steps)
    if described is None or described.kind not in webhook.events:
        return
    for number, images in enumerate(_portions(described.images)):
        if webhook.kind == "discord":
            words = described.words if not number else ""
            yield _discord(words, images=images, prefix=webhook.message_prefix, run_name=run_name)
        else:
            yield _raw(described, images=images, prefix=webhook.message_prefix, run_name=run_name)


def _describe(event: Event, *, progress_steps: int) -> WebhookEvent | None:
    match event:
        case RunStarted():
            image_count = sum(event.datasets.values())
            words = (
                f"training a {event.model_type} of {event.base_model} on {format_count(image_count, 'images')},"
                f" {event.total_steps:,} steps"
            )
            words += f", resumed after step {event.first_step:,}" if event.first_step else ""
            fields = {"base_model": event.base_model, "model_type": event.model_type, "images": image_count}
            fields |= {"first_step": event.first_step, "total_steps": event.total_steps}
            return WebhookEvent(kind="start", words=words, fields=fields)
        case StepFinished() if event.step % progress_steps == 0:
            fields = {"step": event.step, "epoch": event.epoch + 1, "loss": event.loss}
            fields |= {"learning_rate": event.learning_rate, "seconds_per_step": event.seconds}
            words = f"step {event.step:,}, epoch {event.epoch + 1:,}: loss {event.loss:.4f}"
            return WebhookEvent(kind="progress", words=words, fields=fields)
        case MetricsMeasured():
            fields = {
                "step": event.step,
                **{FIELD_NAMES.get(name, name): value for name, value in event.metrics.items()},
            }
            words = f"{event.evaluator} after step {event.step:,}: {metrics_text(event)}"
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
            words = f"{how} after step {event.step:,}, in {format_duration(event.seconds)}"
            fields = {"step": event.step, "seconds": round(event.seconds, 1), "interrupted": event.interrupted}
            return WebhookEvent(kind="end", words=words, fields=fields)
        case _:
            return None


def _portions(images: Sequence[tuple[Path, str]]) -> Iterator[tuple[tuple[Path, str], ...]]:
    """Split `images` by the limits of a message, into at least one portion; an image that is too large is left out."""
    portion: list[tuple[Path, str]] = []
    room, is_first = BYTES_PER_MESSAGE, True
    for image in images:
        size = image[0].stat().st_size
        if size > BYTES_PER_MESSAGE:
            continue
        if len(portion) == IMAGES_PER_MESSAGE or size > room:
            yield tuple(portion)
            portion, room, is_first = [], BYTES_PER_MESSAGE, False
        portion.append(image)
        room -= size
    if portion or is_first:
        yield tuple(portion)


def _discord(words: str, *, images: Sequence[tuple[Path, str]], prefix: str, run_name: str) -> Message:
    text = " ".join(filter(None, [prefix, f"[{run_name}]", words]))
    content = text if len(text) <= DISCORD_CHARACTERS else f"{text[: DISCORD_CHARACTERS - 1]}…"
    # @everyone in a prompt must not notify anyone.
    payload: dict[str, Any] = {"content": content, "allowed_mentions": {"parse": []}}
    if images:
        payload["attachments"] = [
            {"id": number, "filename": path.name, "description": caption[:1024]}
            for number, (path, caption) in enumerate(images)
        ]
    return Message(payload=payload, files=tuple(path for path, _ in images))


def _raw(event: WebhookEvent, *, images: Sequence[tuple[Path, str]], prefix: str, run_name: str) -> Message:
    text = " ".join(filter(None, [prefix, event.words]))
    payload = {"event": event.kind, "run": run_name, "text": text, **event.fields}
    if images:
        payload["images"] = [
            {"name": path.name, "caption": caption, "png": base64.b64encode(path.read_bytes()).decode()}
            for path, caption in images
        ]
    return Message(payload=payload)
