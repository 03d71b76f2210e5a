"""The webhook file: where messages about a run go, read before anything else so that a slip in it costs no hours.

Its address is a secret: whoever knows it can write there. It is in no message, and in no text form of what is read.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.config.suggestions import did_you_mean
from helpers.errors import Problem

KINDS = {"discord": "webhook_url", "raw": "callback_url"}
"""Each kind of webhook, and the key that holds its address."""

EVENTS = ("start", "progress", "images", "checkpoints", "errors", "end")
LEVELS: Mapping[str, tuple[str, ...]] = {
    "critical": ("errors",),
    "error": ("errors",),
    "warning": ("errors",),
    "info": ("start", "images", "checkpoints", "errors", "end"),
    "debug": EVENTS,
}
"""What older files say in place of a list of events."""

KEYS = ("webhook_type", *KINDS.values(), "message_prefix", "events", "log_level", "progress_steps")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
PROGRESS_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A webhook as it was asked for. progress_steps: optimizer steps between messages of progress."""

    kind: str
    url: str = field(repr=False)
    message_prefix: str = ""
    events: tuple[str, ...] = EVENTS
    progress_steps: int = PROGRESS_STEPS


def read_webhook(path: Path) -> tuple[Webhook | None, list[Problem]]:
    """The webhook that the file asks for, or None and all that is wrong with it."""
    problems: list[Problem] = []
    said = _read_object(path, problems)
    if said is None:
        return None, problems
    reader = _Reader(said=said, file=path.name, problems=problems)
    webhook = Webhook(
        kind=(kind := reader.kind()),
        url=reader.url(KINDS.get(kind, "webhook_url")),
        message_prefix=reader.text("message_prefix"),
        events=reader.events(),
        progress_steps=reader.progress_steps(),
    )
    reader.refuse_unknown()
    return (None if problems else webhook), problems


def _read_object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    fix = "name a JSON file such as config/webhook.json.example"
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        problems.append(_unreadable(path, reason=f"it cannot be read: {error.strerror}", fix=fix))
        return None
    except ValueError as error:
        problems.append(_unreadable(path, reason=f"it is not JSON: {error}", fix="mend it there"))
        return None
    # Some write a list with one webhook in it.
    said = said[0] if isinstance(said, list) and len(said) == 1 else said
    if isinstance(said, dict):
        return said
    problems.append(_unreadable(path, reason="it does not hold one webhook between { and }", fix=fix))
    return None


def _unreadable(path: Path, *, reason: str, fix: str) -> Problem:
    return Problem(option="WEBHOOK_CONFIG", value=str(path), reason=reason, fix=fix)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Takes the values out of a webhook file and notes what is wrong with them; no value that may be secret."""

    said: Mapping[str, Any]
    file: str
    problems: list[Problem]

    def _problem(self, key: str, *, reason: str, fix: str, value: str = "") -> None:
        self.problems.append(Problem(option=f"{self.file}: {key}", value=value, reason=reason, fix=fix))

    def refuse_unknown(self) -> None:
        for key in self.said:
            if key not in KEYS:
                fix = did_you_mean(key, KEYS, otherwise=f"the keys are {', '.join(KEYS)}")
                self._problem(key, reason="there is no such key", fix=fix)

    def kind(self) -> str:
        kind = self.said.get("webhook_type", "")
        if kind not in KINDS:
            fix = did_you_mean(str(kind), KINDS, otherwise='set "discord" or "raw"')
            self._problem("webhook_type", value=str(kind), reason="there is no such kind of webhook", fix=fix)
        return str(kind)

    def url(self, key: str) -> str:
        """The address; https, or plain http to this machine."""
        url = self.said.get(key, "")
        fix = "copy the whole address, which begins with https://"
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            is_address = bool(parts.hostname) and parts.scheme in ("http", "https") and (parts.port or 1) > 0
        except ValueError:
            is_address, parts = False, urlsplit("")
        if not url:
            self._problem(key, reason="not set", fix=fix)
        elif not is_address:
            self._problem(key, reason="it is no address", fix=fix)
        elif parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS:
            self._problem(key, reason="over plain http others could read the messages, and the address", fix=fix)
        return str(url)

    def text(self, key: str) -> str:
        text = self.said.get(key, "")
        if not isinstance(text, str):
            self._problem(key, reason="it is no text", fix="put it between quotes")
        return str(text)

    def events(self) -> tuple[str, ...]:
        """The events asked for by name, else by the level of older files, else all."""
        level = self.said.get("log_level")
        if level is not None and level not in LEVELS:
            fix = did_you_mean(str(level), LEVELS, otherwise=f"use one of {', '.join(LEVELS)}, or leave it out")
            self._problem("log_level", value=str(level), reason="there is no such level", fix=fix)
        events = self.said.get("events")
        if events is None:
            return LEVELS.get(str(level), EVENTS)
        if not isinstance(events, list):
            self._problem("events", reason="it is no list", fix=f"use [{', '.join(EVENTS)}] or some of them, in quotes")
            return ()
        for event in events:
            if event not in EVENTS:
                fix = did_you_mean(str(event), EVENTS, otherwise=f"the events are {', '.join(EVENTS)}")
                self._problem("events", value=str(event), reason="there is no such event", fix=fix)
        return tuple(str(event) for event in events)

    def progress_steps(self) -> int:
        steps = self.said.get("progress_steps", PROGRESS_STEPS)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            self._problem("progress_steps", value=str(steps), reason="it is not an integer from 1 up", fix="use 100")
            return PROGRESS_STEPS
        return steps
