"""Messages arrive and respect rate limits, and a dead webhook costs the run nothing."""

import base64
import logging
import socket
import threading
from pathlib import Path

import pytest
from PIL import Image

from helpers.config.files.webhook import Webhook
from helpers.errors import ReportingError
from helpers.reporting.background import BackgroundListener
from helpers.reporting.events import (
    CheckpointSaved,
    Event,
    RunFailed,
    RunFinished,
    RunStarted,
    StepFinished,
    ValidationImagesSaved,
)
from helpers.reporting.reporter import Reporter
from helpers.reporting.webhook import WebhookSender
from tests.unit.reporting.webhooks import SECRET_PATH, Answer, Clock, LoopbackWebhook, loopback_webhook

TOKEN = SECRET_PATH.rpartition("/")[2]
BACK_OFF_SECONDS = 0.02


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The sender's time, which moves by what it sleeps and by nothing else: how busy the machine is does not count."""
    clock = Clock()
    monkeypatch.setattr("helpers.reporting.webhook.time", clock)
    return clock


def sender(webhook: LoopbackWebhook, *, kind: str = "raw", **more: object) -> WebhookSender:
    settings = Webhook(kind=kind, url=webhook.url, **more)  # type: ignore[arg-type]
    return WebhookSender(settings, run_name="cats", back_off_seconds=BACK_OFF_SECONDS)


def step(number: int) -> StepFinished:
    return StepFinished(step=number, epoch=0, loss=0.5, learning_rate=1e-4, gradient_norm=1.0, images=4, seconds=0.1)


def started(first_step: int = 0) -> RunStarted:
    return RunStarted(
        base_model="stabilityai/stable-diffusion-3.5-medium",
        model_type="lora",
        trainable_parameters=1_000_000,
        settings={"lora": {"lora_rank": 16}},
        datasets={"cats": 20, "dogs": 5},
        output_dir=Path("output"),
        first_step=first_step,
        total_steps=300,
    )


def complete_run(folder: Path) -> list[Event]:
    paths = tuple(folder / f"{color}.png" for color in ("red", "blue"))
    for path in paths:
        Image.new("RGB", (16, 16), path.stem).save(path)
    return [
        started(),
        *(step(number) for number in range(1, 301)),
        ValidationImagesSaved(step=300, paths=paths, captions=("a red square", "@everyone look")),
        CheckpointSaved(step=300, path=folder / "checkpoint-300"),
        RunFinished(step=300, seconds=30, written=()),
        RunFailed(message="the disk is full"),
    ]


def test_a_raw_webhook_receives_a_run_as_json_fields(tmp_path: Path) -> None:
    with loopback_webhook() as webhook:
        listener = sender(webhook, message_prefix="lab:")
        for event in complete_run(tmp_path):
            listener.handle(event)
        listener.close()
    kinds = [payload["event"] for payload in webhook.payloads]
    assert kinds == ["start", "progress", "progress", "progress", "images", "checkpoints", "end", "errors"]
    start, progress, *_, images, checkpoint, end, error = webhook.payloads
    assert start["text"].startswith("lab: training a lora of stabilityai/stable-diffusion-3.5-medium on 25 images, 300")
    assert (progress["step"], progress["loss"], progress["run"]) == (100, 0.5, "cats")
    assert [image["caption"] for image in images["images"]] == ["a red square", "@everyone look"]
    assert base64.b64decode(images["images"][0]["png"]) == (tmp_path / "red.png").read_bytes()
    assert (checkpoint["checkpoint"], end["step"]) == ("checkpoint-300", 300)
    assert error["text"] == "the disk is full" or "the disk is full" in error["text"]


def test_discord_receives_text_with_the_images_attached(tmp_path: Path) -> None:
    with loopback_webhook() as webhook:
        listener = sender(webhook, kind="discord", events=("start", "images", "errors"), message_prefix="lab")
        for event in complete_run(tmp_path):
            listener.handle(event)
        listener.handle(RunFailed(message="x" * 5000))
        listener.close()
    start, images, _, long = webhook.heard
    assert start.payload["content"].startswith("lab [cats] training a lora of stabilityai")
    assert images.payload["allowed_mentions"] == {"parse": []}
    assert images.files == {name: (tmp_path / name).read_bytes() for name in ("red.png", "blue.png")}
    assert [each["description"] for each in images.payload["attachments"]] == ["a red square", "@everyone look"]
    assert len(long.payload["content"]) == 2000, "Discord refuses longer ones"


def test_more_images_than_a_message_holds_come_in_several(tmp_path: Path) -> None:
    paths = tuple(tmp_path / f"{number}.png" for number in range(12))
    for path in paths:
        Image.new("RGB", (8, 8)).save(path)
    with loopback_webhook() as webhook:
        listener = sender(webhook, kind="discord")
        listener.handle(ValidationImagesSaved(step=0, paths=paths, captions=("a cat",) * 12))
        listener.close()
    assert [len(each.files) for each in webhook.heard] == [10, 2]
    assert webhook.payloads[0]["content"] == "[cats] images of the base model:\na cat"


@pytest.mark.parametrize(
    "too_many", [Answer(429, {"Retry-After": "0.4"}), Answer(429, body=b'{"message": "slow", "retry_after": 0.4}')]
)
def test_a_message_that_comes_too_soon_waits_as_long_as_the_server_asks(too_many: Answer, clock: Clock) -> None:
    with loopback_webhook(too_many, Answer(), now=clock.monotonic) as webhook:
        listener = sender(webhook, kind="discord")
        listener.handle(started())
        listener.close()
    first, second = webhook.heard
    assert second.at - first.at == pytest.approx(0.4)
    assert first.payload == second.payload


def test_the_last_message_that_is_allowed_for_now_is_followed_by_a_wait(clock: Clock) -> None:
    used_up = Answer(headers={"X-RateLimit-Remaining": "0", "X-RateLimit-Reset-After": "0.4"})
    with loopback_webhook(used_up, Answer(), now=clock.monotonic) as webhook:
        listener = sender(webhook, kind="discord")
        listener.handle(started())
        listener.handle(RunFailed(message="x"))
        listener.close()
    first, second = webhook.heard
    assert second.at - first.at == pytest.approx(0.4)


def test_a_server_in_trouble_is_tried_again(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    trouble = [Answer(500)] * 3
    with loopback_webhook(*trouble, Answer(), now=clock.monotonic) as webhook:
        listener = sender(webhook)
        listener.handle(started())
        listener.close()
    assert len(webhook.heard) == 4
    gaps = [later.at - one.at for one, later in zip(webhook.heard, webhook.heard[1:], strict=False)]
    assert gaps == pytest.approx([BACK_OFF_SECONDS, 2 * BACK_OFF_SECONDS, 4 * BACK_OFF_SECONDS]), "each wait is longer"
    assert not caplog.messages


def test_an_address_that_is_gone_is_not_tried_again() -> None:
    with loopback_webhook(Answer(404)) as webhook:
        listener = sender(webhook)
        with pytest.raises(ReportingError, match="status 404"):
            listener.handle(started())
        listener.close()
    assert len(webhook.heard) == 1


def test_an_unreachable_address_is_given_up_and_never_shown(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}{SECRET_PATH}"
    listener = WebhookSender(Webhook(kind="raw", url=url), run_name="cats", back_off_seconds=0.001)
    reporter = Reporter([BackgroundListener(listener, name="the webhook", close_seconds=5)])
    with caplog.at_level(logging.INFO):
        for number in range(100, 600, 100):
            reporter.handle(step(number))
        reporter.close()
    messages = "\n".join(caplog.messages)
    assert "the webhook" in messages and "3 messages in a row did not arrive" in messages
    assert TOKEN not in messages


def test_a_webhook_that_hangs_costs_a_run_no_time_and_its_end_a_little(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """All 2,000 steps are reported and the run has ended while the first message still has no answer."""
    monkeypatch.setattr("helpers.reporting.webhook.TIMEOUT_SECONDS", 3600)  # the server's answer comes first
    with loopback_webhook(Answer(after_seconds=30), Answer()) as webhook:
        listener = BackgroundListener(sender(webhook), name="the webhook", close_seconds=0.05)
        reporter = Reporter([listener])
        for number in range(1, 101):
            reporter.handle(step(number))
        assert webhook.hangs.wait(timeout=60)
        for number in range(101, 2001):
            reporter.handle(step(number))
        assert (len(webhook.heard), webhook.answered) == (1, 0), "nobody waited"
        reporter.close()
        assert (len(webhook.heard), webhook.answered) == (1, 0), "the first message still hangs"
        webhook.released.set()
        for thread in [each for each in threading.enumerate() if each.name == "the webhook"]:
            thread.join(timeout=60)
    assert webhook.answered == 20, "a process that lives on sends the others late"
    assert any("the webhook did not finish within" in text for text in caplog.messages)
