"""Uploads to a hub, its refusals and failures, and their messages, over real requests."""

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.config.options.output import PublishingOptions
from helpers.errors import ReportingError
from helpers.reporting.events import CheckpointSaved, RunFinished, RunStarted
from helpers.reporting.publish.hub import HubUploader, Uploads, open_repository
from tests.loopback_hub import LARGE_BYTES, LoopbackHub, loopback_hub

OPTIONS = PublishingOptions(push_to_hub=True, push_checkpoints_to_hub=True, hub_model_id="colors")
WEIGHTS = "pytorch_lora_weights.safetensors"
IMAGE = "validation_images/step_4/red.png"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        yield hub


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """What a run of four steps leaves."""
    from PIL import Image

    (tmp_path / WEIGHTS).write_bytes(b"w" * (LARGE_BYTES * 3))
    (tmp_path / "README.md").write_text("# colors\n")
    (tmp_path / "notes.txt").write_text("nobody's business")
    image = tmp_path / IMAGE
    image.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(image)
    return tmp_path


def checkpoint(output: Path, step: int) -> CheckpointSaved:
    folder = output / f"checkpoint-{step}"
    folder.mkdir()
    (folder / "optimizer.safetensors").write_bytes(bytes([step]) * (LARGE_BYTES + step))
    (folder / "manifest.json").write_text(f'{{"step": {step}}}')
    return CheckpointSaved(step=step, path=folder)


def started(output: Path) -> RunStarted:
    return RunStarted(
        base_model="some/base",
        model_type="lora",
        trainable_parameters=10,
        settings={},
        datasets={"colors": 7},
        output_dir=output,
        first_step=0,
        total_steps=4,
        result=WEIGHTS,
    )


def uploader(hub: LoopbackHub, *, checkpoints: bool = True) -> HubUploader:
    return HubUploader(open_repository(OPTIONS, endpoint=hub.url), checkpoints=checkpoints, back_off_seconds=0.0)


def finished(output: Path, *names: str) -> RunFinished:
    exported = tuple(output / name for name in names or (WEIGHTS,))
    return RunFinished(step=4, seconds=1.0, written=exported, exported=exported)


def same_as_here(hub: LoopbackHub, output: Path, *paths: str) -> bool:
    return all(hub.files("colors").get(path) == (output / path).read_bytes() for path in paths)


def test_what_arrives_is_what_was_written_and_nothing_else(hub: LoopbackHub, output: Path) -> None:
    upload = uploader(hub)
    assert hub.private == {"painter/colors": True}
    upload.handle(started(output))
    upload.handle(checkpoint(output, 2))
    upload.handle(finished(output))
    paths = {WEIGHTS, "README.md", IMAGE, "checkpoint-2/optimizer.safetensors", "checkpoint-2/manifest.json"}
    assert hub.files("colors").keys() == paths
    assert same_as_here(hub, output, *paths)
    assert hub.commits == ["Add checkpoint-2", "Step 4"]


def test_a_pipeline_is_the_repository_itself(hub: LoopbackHub, output: Path) -> None:
    (output / "pipeline" / "transformer").mkdir(parents=True)
    (output / "pipeline" / "model_index.json").write_text("{}")
    (output / "pipeline" / "transformer" / "config.json").write_text("{}")
    upload = uploader(hub)
    upload.handle(RunStarted(**{**vars(started(output)), "result": "pipeline"}))
    upload.handle(finished(output, "pipeline"))
    assert {"model_index.json", "transformer/config.json", "README.md"} <= hub.files("colors").keys()


def test_every_form_of_the_weights_is_published(hub: LoopbackHub, output: Path) -> None:
    (output / "pipeline").mkdir()
    (output / "pipeline" / "model_index.json").write_text("{}")
    (output / "comfyui_lora.safetensors").write_bytes(b"the same")
    upload = uploader(hub)
    upload.handle(started(output))
    upload.handle(finished(output, WEIGHTS, "comfyui_lora.safetensors", "pipeline"))
    assert same_as_here(hub, output, WEIGHTS, "comfyui_lora.safetensors", "pipeline/model_index.json")


def test_checkpoints_stay_here_unless_asked_for(hub: LoopbackHub, output: Path) -> None:
    upload = uploader(hub, checkpoints=False)
    upload.handle(started(output))
    upload.handle(checkpoint(output, 2))
    upload.handle(finished(output))
    assert not [path for path in hub.files("colors") if path.startswith("checkpoint-")]


def test_a_hub_that_fails_now_and_then_is_asked_again(hub: LoopbackHub, output: Path) -> None:
    upload = uploader(hub)
    hub.refuses.append(["/commit/", 500, 2])
    upload.handle(started(output))
    upload.handle(finished(output))
    assert same_as_here(hub, output, WEIGHTS, "README.md")


def test_a_checkpoint_that_did_not_arrive_goes_with_the_next(
    hub: LoopbackHub, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    upload = uploader(hub)
    upload.handle(started(output))
    hub.refuses.append(["/commit/", 500, 3])
    upload.handle(checkpoint(output, 2))
    assert not hub.files("colors")
    assert "checkpoint-2 is not on the hub yet, because the hub answered with status 500" in caplog.text
    upload.handle(checkpoint(output, 4))
    assert same_as_here(hub, output, "checkpoint-2/optimizer.safetensors", "checkpoint-4/optimizer.safetensors")


def test_the_next_start_uploads_what_is_missing_and_only_that(hub: LoopbackHub, output: Path) -> None:
    first = uploader(hub)
    first.handle(started(output))
    first.handle(checkpoint(output, 2))
    hub.refuses.append(["/commit/", 500, 3])
    first.handle(checkpoint(output, 4))
    assert hub.commits == ["Add checkpoint-2"]
    uploader(hub).handle(started(output))
    assert hub.commits == ["Add checkpoint-2", "Add checkpoint-4"]


def test_a_checkpoint_of_another_run_under_the_same_name_is_replaced(hub: LoopbackHub, output: Path) -> None:
    upload = uploader(hub)
    upload.handle(started(output))
    saved = checkpoint(output, 2)
    upload.handle(saved)
    (saved.path / "manifest.json").write_text('{"step": 9}')
    uploader(hub).handle(started(output))
    assert hub.files("colors")["checkpoint-2/manifest.json"] == b'{"step": 9}'


def test_a_checkpoint_deleted_meanwhile_is_no_failure(hub: LoopbackHub, output: Path) -> None:
    upload = uploader(hub)
    upload.handle(started(output))
    hub.refuses.append(["/commit/", 500, 3])
    saved = checkpoint(output, 2)
    upload.handle(saved)
    for file in saved.path.iterdir():
        file.unlink()
    saved.path.rmdir()
    upload.handle(finished(output))
    assert same_as_here(hub, output, WEIGHTS)


def test_a_hub_that_goes_away_is_reported_at_the_end_and_delays_nothing(
    output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
        upload = uploader(hub)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # the client's own pauses
    background = Uploads(upload)
    began = time.monotonic()
    background.handle(started(output))
    background.handle(checkpoint(output, 2))
    background.handle(finished(output))
    assert time.monotonic() - began < 1
    with pytest.raises(ReportingError, match="not everything is on the hub, because of Connect"):
        background.close()


def test_a_slow_hub_never_keeps_the_run_waiting(hub: LoopbackHub, output: Path) -> None:
    background = Uploads(uploader(hub))
    hub.held.clear()
    began = time.monotonic()
    background.handle(started(output))
    background.handle(checkpoint(output, 2))
    background.handle(finished(output))
    assert time.monotonic() - began < 1
    assert not hub.files("colors")
    hub.held.set()
    background.close()
    assert same_as_here(hub, output, WEIGHTS, "checkpoint-2/optimizer.safetensors")


def test_no_token(hub: LoopbackHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    refused("is not logged in to the hub", hub=hub)


def refused(reason: str, *, hub: LoopbackHub, options: PublishingOptions = OPTIONS) -> None:
    with pytest.raises(ReportingError) as caught:
        open_repository(options, endpoint=hub.url)
    assert str(caught.value).startswith("PUSH_TO_HUB = true: ")
    assert reason in str(caught.value)
    assert hub.token not in str(caught.value)


def test_a_token_that_is_refused(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_AnOldTokenThatWasTakenBack")
    refused("does not accept this machine's token", hub=hub)


def test_a_name_that_belongs_to_somebody_else(hub: LoopbackHub) -> None:
    options = PublishingOptions(push_to_hub=True, hub_model_id="somebody/colors")
    refused("this account may not write to somebody/colors", hub=hub, options=options)


def test_what_is_public_already_is_not_taken_for_private(hub: LoopbackHub, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    public = PublishingOptions(push_to_hub=True, hub_model_id="colors", hub_private=False)
    assert open_repository(public, endpoint=hub.url).name == "painter/colors"
    assert hub.private == {"painter/colors": False}
    refused("painter/colors exists already and is public", hub=hub)


def test_a_hub_that_is_out_of_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    with loopback_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", hub.token)
    refused("the hub cannot be reached (ConnectError)", hub=hub)


def test_a_machine_that_is_kept_offline(hub: LoopbackHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("HF_HUB_OFFLINE", hub=hub)
