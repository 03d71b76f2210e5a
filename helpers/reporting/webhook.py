"""Sends messages about a run to a webhook, on a `BackgroundListener` thread, since networks are slow."""

import json
import logging
import time
from typing import Any

from helpers.config.files.webhook import Webhook
from helpers.errors import ReportingError
from helpers.reporting.events import Event
from helpers.reporting.webhook_messages import Message, messages_of

logger = logging.getLogger(__name__)

ATTEMPTS = 4
BACK_OFF_SECONDS = 1.0
TIMEOUT_SECONDS = 10.0
TOO_MANY = 429
GONE = (401, 403, 404, 410)
"""Answers after which the address will never do."""

FAILURES_IN_A_ROW = 3


class WebhookSender:
    """A listener that posts what `webhook` asks for; it waits as long as the other side says, and tries again.

    Raises ReportingError where the other side refuses the address or stays away; the address is in no message.
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
        logger.warning(f"the webhook did not take a message, after {ATTEMPTS} attempts: {problem}")
        if self._failures >= FAILURES_IN_A_ROW:
            raise ReportingError(f"{self._failures} messages in a row did not arrive, the last one because {problem}")

    def _post(self, message: Message) -> tuple[str, float]:
        """Send once: what went wrong (empty: nothing) and for how many seconds to stay away."""
        import httpx

        try:
            answer = self._client.post(self._webhook.url, **_request(message))
        except httpx.HTTPError as error:  # its text may hold the address
            return f"there was no answer ({type(error).__name__})", 0.0
        if answer.is_success:
            self._respect_limit(answer.headers)
            return "", 0.0
        if answer.status_code in GONE:
            raise ReportingError(f"it answered with status {answer.status_code}: does it still exist?")
        return f"it answered with status {answer.status_code}", _seconds_to_wait(answer)

    def _respect_limit(self, headers: Any) -> None:
        """Discord says when the last message of a stretch of time was sent, and how long that still lasts."""
        if headers.get("X-RateLimit-Remaining") == "0":
            self._not_before = time.monotonic() + _number(headers.get("X-RateLimit-Reset-After"))


def _request(message: Message) -> dict[str, Any]:
    """How httpx is told of a message: JSON alone, or as Discord wants it beside files."""
    if not message.files:
        return {"json": message.payload}
    files = {
        f"files[{number}]": (path.name, path.read_bytes(), "image/png") for number, path in enumerate(message.files)
    }
    return {"data": {"payload_json": json.dumps(message.payload)}, "files": files}


def _seconds_to_wait(answer: Any) -> float:
    """What the other side says of when to come again: a header, or Discord's word in the body."""
    told = _number(answer.headers.get("Retry-After"))
    if not told and answer.status_code == TOO_MANY:
        try:
            told = _number(answer.json().get("retry_after"))
        except (ValueError, AttributeError):
            told = 0.0
    return told


def _number(said: Any) -> float:
    try:
        return max(0.0, float(said))
    except (TypeError, ValueError):
        return 0.0
