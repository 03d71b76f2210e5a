"""The webhook file: where messages about a run go, checked before anything is loaded.

Its URL is a secret, because it gives write access. No message and no `repr` contains it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.config.files.json_file import WrongJson, read_json
from helpers.config.suggestions import did_you_mean
from helpers.errors import Problem

KINDS = {"discord": "webhook_url", "raw": "callback_url"}
"""Each type of webhook, and the key of its URL."""

EVENTS = ("start", "progress", "images", "checkpoints", "errors", "end")
LEVELS: Mapping[str, tuple[str, ...]] = {
    "critical": ("errors",),
    "error": ("errors",),
    "warning": ("errors",),
    "info": ("start", "images", "checkpoints", "errors", "end"),
    "debug": EVENTS,
}
"""What older files have instead of a list of events."""

KEYS = ("webhook_type", *KINDS.values(), "message_prefix", "events", "log_level", "progress_steps")
LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
PROGRESS_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Webhook:
    """A webhook. progress_steps: optimizer steps between progress messages."""

    kind: str
    url: str = field(repr=False)
    message_prefix: str = ""
    events: tuple[str, ...] = EVENTS
    progress_steps: int = PROGRESS_STEPS


def read_webhook(path: Path) -> tuple[Webhook | None, list[Problem]]:
    """The webhook in the file, or None and every problem."""
    problems: list[Problem] = []
    content = _read_object(path, problems)
    if content is None:
        return None, problems
    reader = _Reader(content=content, file=path.name, problems=problems)
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
        content = read_json(path, example="config/webhook.json.example")
    except WrongJson as wrong:
        problems.append(wrong.problem("WEBHOOK_CONFIG", value=str(path)))
        return None
    # Some files hold a list with one webhook.
    content = content[0] if isinstance(content, list) and len(content) == 1 else content
    if isinstance(content, dict):
        return content
    problems.append(_unreadable(path, reason="it does not hold one webhook between { and }", fix=fix))
    return None


def _unreadable(path: Path, *, reason: str, fix: str) -> Problem:
    return Problem(option="WEBHOOK_CONFIG", value=str(path), reason=reason, fix=fix)


@dataclass(frozen=True, kw_only=True)
class _Reader:
    """Reads the values of a webhook file and collects their problems, without values that may be secret."""

    content: Mapping[str, Any]
    file: str
    problems: list[Problem]

    def _problem(self, key: str, *, reason: str, fix: str, value: str = "") -> None:
        self.problems.append(Problem(option=f"{self.file}: {key}", value=value, reason=reason, fix=fix))

    def refuse_unknown(self) -> None:
        for key in self.content:
            if key not in KEYS:
                fix = did_you_mean(key, KEYS, otherwise=f"the keys are {', '.join(KEYS)}")
                self._problem(key, reason="there is no such key", fix=fix)

    def kind(self) -> str:
        kind = self.content.get("webhook_type", "")
        if not isinstance(kind, str) or kind not in KINDS:
            fix = did_you_mean(str(kind), KINDS, otherwise='use "discord" or "raw"')
            self._problem("webhook_type", value=str(kind), reason="not a supported type of webhook", fix=fix)
        return str(kind)

    def url(self, key: str) -> str:
        """The URL; https, or plain http to this machine."""
        url = self.content.get(key, "")
        fix = "copy the complete URL, which starts with https://"
        try:
            parts = urlsplit(url if isinstance(url, str) else "")
            is_address = bool(parts.hostname) and parts.scheme in ("http", "https") and (parts.port or 1) > 0
        except ValueError:
            is_address, parts = False, urlsplit("")
        if not url:
            self._problem(key, reason="not set", fix=fix)
        elif not is_address:
            self._problem(key, reason="it is not a URL", fix=fix)
        elif parts.scheme == "http" and parts.hostname not in LOCAL_HOSTS:
            self._problem(key, reason="over plain http others could read the messages and the URL", fix=fix)
        return str(url)

    def text(self, key: str) -> str:
        text = self.content.get(key, "")
        if not isinstance(text, str):
            self._problem(key, reason="it is not text", fix="put it in quotes")
        return str(text)

    def events(self) -> tuple[str, ...]:
        """The events set by name, else by the level of older files, else all."""
        level = self.content.get("log_level")
        if level is not None and str(level) not in LEVELS:
            fix = did_you_mean(str(level), LEVELS, otherwise=f"use one of {', '.join(LEVELS)}, or leave it out")
            self._problem("log_level", value=str(level), reason="there is no such level", fix=fix)
        events = self.content.get("events")
        if events is None:
            return LEVELS.get(str(level), EVENTS)
        if not isinstance(events, list):
            self._problem(
                "events", reason="it is not a list", fix=f"use [{', '.join(EVENTS)}] or some of them, in quotes"
            )
            return ()
        for event in events:
            if event not in EVENTS:
                fix = did_you_mean(str(event), EVENTS, otherwise=f"the events are {', '.join(EVENTS)}")
                self._problem("events", value=str(event), reason="there is no such event", fix=fix)
        return tuple(str(event) for event in events)

    def progress_steps(self) -> int:
        steps = self.content.get("progress_steps", PROGRESS_STEPS)
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 1:
            self._problem(
                "progress_steps", value=str(steps), reason="it is not an integer of at least 1", fix="use 100"
            )
            return PROGRESS_STEPS
        return steps
