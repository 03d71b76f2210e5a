"""Trackers, the log file and a webhook through whole runs: what they were told is read back, and no secret is in it."""

import io
import json
import re
import signal
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from helpers.training import loop
from tests.runs.browser import BROWSER, opened
from tests.runs.harness import SmallRun, draw_set
from tests.unit.reporting.tracked import tensorboard_images, tensorboard_scalars, tensorboard_texts, wandb_files
from tests.unit.reporting.webhooks import SECRET_PATH, LoopbackWebhook, loopback_webhook

PLANTED = {
    "HF_TOKEN": "hf_PlantedTokenOfTheHub0123456789",
    "WANDB_API_KEY": "5ec4e7" * 6 + "0000",
    "AWS_SECRET_ACCESS_KEY": "PlantedSecretKeyOfAws/0123456789",
}
STEPS, STOPPED = 7, 5
SETTINGS = {
    "max_train_steps": STEPS,
    "checkpointing_steps": 3,
    "validation_prompt": "red square",
    "validation_steps": 3,
    "report_to": "wandb,tensorboard",
    "tracker_project_name": "colors",
    "tracker_run_name": "first light",
}


@dataclass(frozen=True)
class Told:
    """A run that was stopped (SIGTERM) as it took step 5, and went on to its end."""

    run: SmallRun
    webhook: LoopbackWebhook
    said: str

    @property
    def logs(self) -> Path:
        return self.run.output / "logs"

    @property
    def tensorboard(self) -> Path:
        return self.logs / "tensorboard" / "first light"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> Told:
    folder = tmp_path_factory.mktemp("reporting")
    run = SmallRun(folder, tiny_pipeline, settings=dict(SETTINGS))
    draw_set(run.output / "datasets" / "colors")
    with loopback_webhook() as webhook, pytest.MonkeyPatch.context() as environment:
        for name, value in PLANTED.items():
            environment.setenv(name, value)
        environment.setenv("WANDB_MODE", "offline")
        config = folder / "webhook.json"
        config.write_text(json.dumps({"webhook_type": "raw", "callback_url": webhook.url, "progress_steps": 2}))
        run.settings["webhook_config"] = config
        with pytest.MonkeyPatch.context() as stopping:
            stop_after(STOPPED, stopping)
            assert run.start() == 128 + signal.SIGTERM
        console = io.StringIO()
        with redirect_stdout(console), redirect_stderr(console):
            assert run.start() == 0
    return Told(run, webhook, console.getvalue())


def stop_after(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process told to end while it takes the step of that number."""

    def taken(*arguments: Any, **named: Any) -> Any:
        if named["state"].step + 1 == step:
            signal.raise_signal(signal.SIGTERM)
        return take_step(*arguments, **named)

    take_step = loop.take_step
    monkeypatch.setattr(loop, "take_step", taken)


def test_wandb_keeps_one_run_in_which_each_step_is_told_once(told: Told) -> None:
    first, second = wandb_files(told.logs)
    assert first.id == second.id
    assert (second.name, second.project, second.exit_code) == ("first light", "colors", 0)
    rows = [row for row in (*first.history, *second.history) if "train/loss" in row]
    assert [row["_step"] for row in rows] == list(range(1, STEPS + 1))
    figures = {"train/gradient_norm", "train/learning_rate", "train/epoch", "train/mean_sigma", "memory/peak_gb"}
    assert all(figures | {"speed/images_per_second"} <= row.keys() for row in rows)
    assert all(any(name.startswith("loss_by_sigma/") for name in row) for row in rows)
    assert second.config["lora"]["lora_rank"] == 4
    assert second.config["about"]["datasets"] == {"colors": 7}
    (last,) = [row for row in second.history if row["_step"] == STEPS]
    assert last["validation/captions"] == ["red square"]
    (copied,) = told.logs.glob(f"wandb/offline-run-*/files/{last['validation/filenames'][0]}")
    assert copied.read_bytes() == _drawn(told, STEPS).read_bytes()


def test_tensorboard_shows_one_run_in_which_each_step_stands_once(told: Told) -> None:
    scalars = tensorboard_scalars(told.tensorboard, name="train/loss")
    assert [step for step, _ in scalars] == list(range(1, STEPS + 1))
    assert all(value > 0 for _, value in scalars)
    images = tensorboard_images(told.tensorboard)
    name = "validation/validation_64x64_seed42"
    assert {place: caption for place, (caption, _) in images.items()} == {
        (name, step): "red square" for step in (0, 3, 6, STEPS)
    }
    assert images[name, STEPS][1] == _drawn(told, STEPS).read_bytes()
    assert "| lora_rank | 4 |" in tensorboard_texts(told.tensorboard)["settings/text_summary"]


def test_both_trackers_are_told_the_same(told: Told) -> None:
    by_step = dict(tensorboard_scalars(told.tensorboard, name="train/loss"))
    for file in wandb_files(told.logs):
        for row in file.history:
            if "train/loss" in row:
                assert row["train/loss"] == pytest.approx(by_step[row["_step"]], rel=1e-6)


def test_the_webhook_hears_of_both_starts_and_the_end(told: Told) -> None:
    kinds = [payload["event"] for payload in told.webhook.payloads]
    assert (kinds.count("start"), kinds.count("end")) == (2, 2)
    assert kinds[-1] == "end"
    assert [each["first_step"] for each in told.webhook.payloads if each["event"] == "start"] == [0, STOPPED]
    assert {each["step"] for each in told.webhook.payloads if each["event"] == "progress"} == {2, 4, 6}
    images = [each for each in told.webhook.payloads if each["event"] == "images"]
    assert [image["caption"] for image in images[-1]["images"]] == ["red square"]


def test_every_line_is_in_a_log_file_with_its_time(told: Told) -> None:
    first, second = sorted(told.logs.glob("*.log"))
    lines = second.read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in lines)
    logged = [line[20:] for line in lines]
    assert any(line.startswith("resumes from") for line in logged)
    for line in ("LEARNING_RATE=0.01 is very large", f"finished after step {STEPS}", f"checkpoint at step {STEPS}"):
        assert any(line in each for each in logged) == (line in told.said), line
    assert "encode images of colors: 7 images in " in first.read_text()


def test_no_secret_is_in_anything_written_or_sent(told: Told) -> None:
    secrets = [*PLANTED.values(), SECRET_PATH.rpartition("/")[2]]
    written = {str(path): path.read_bytes() for path in told.run.output.rglob("*") if path.is_file()}
    assert len(written) > 20
    sent = {f"request {number}": heard.body for number, heard in enumerate(told.webhook.heard)}
    said = {"the console": told.said.encode()}
    found = [
        (name, secret)
        for name, content in (written | sent | said).items()
        for secret in secrets
        if secret.encode() in content
    ]
    assert not found


def _drawn(told: Told, step: int) -> Path:
    (image,) = (told.run.output / "validation_images" / f"step_{step}").iterdir()
    return image


@pytest.mark.skipif(BROWSER is None, reason="no Chromium to open the page with")
def test_the_runs_page_shows_both_starts_as_one_in_a_browser_without_a_network(told: Told, tmp_path: Path) -> None:
    text = (told.run.output / "run.html").read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    probe = tmp_path / "probe.html"
    check = "addEventListener('load', () => document.title = [...document.images].every(i => i.naturalWidth > 20))"
    probe.write_text(text + f"<script>{check}</script>")
    shown = opened(probe, tmp_path / "profile")
    assert "<title>true</title>" in shown
    assert '<span class="badge finished">finished</span>' in shown
    assert f"<b>{STEPS}</b><span>of {STEPS} steps, 100 %" in shown
    assert f"resumed after step {STOPPED}" in shown
    assert [f"<span>{step}</span>" in shown for step in ("base", "step 3", "step 6", f"step {STEPS}")] == [True] * 4
    assert '<div class="compare" style=' in shown
