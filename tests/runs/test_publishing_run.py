"""A whole run is published over the real client's requests, its card's code draws, and no secret goes anywhere."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from tests.buckets import BucketServer
from tests.loopback_hub import LoopbackHub, loopback_hub
from tests.runs.harness import SmallRun, draw_set
from tests.unit.reporting.webhooks import SECRET_PATH, LoopbackWebhook, loopback_webhook

WEIGHTS = "pytorch_lora_weights.safetensors"
PROMPT = "red square"
IN_ENVIRONMENT = {
    "WANDB_API_KEY": "5ec4e7" * 6 + "0000",
    "AWS_ACCESS_KEY_ID": "PlantedIdOfTheEnvironment",
    "AWS_SECRET_ACCESS_KEY": "PlantedKeyOfTheEnvironment",
    "AWS_SESSION_TOKEN": "PlantedSessionOfTheEnvironment",
    "HTTPS_PROXY": "http://me:PlantedPasswordOfTheProxy@127.0.0.1:9",
}
IN_DATASET_FILE = {
    "aws_access_key_id": "PlantedIdOfTheFile",
    "aws_secret_access_key": "PlantedKeyOfTheFile",
}
# What of the above is secret; an address without its password is not.
PLANTED = (
    *(value for name, value in IN_ENVIRONMENT.items() if name.startswith(("WANDB", "AWS"))),
    "PlantedPasswordOfTheProxy",
    "PlantedIdOfTheFile",
    "PlantedKeyOfTheFile",
    "PlantedPasswordOfTheStore",
    SECRET_PATH.rpartition("/")[2],
)


@dataclass(frozen=True)
class Published:
    """A run that went from start to end. said: on its console."""

    run: SmallRun
    hub: LoopbackHub
    webhook: LoopbackWebhook
    said: str


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path, buckets: BucketServer
) -> Iterator[Published]:
    folder = tmp_path_factory.mktemp("publishing")
    with loopback_hub() as hub, loopback_webhook() as webhook, pytest.MonkeyPatch.context() as environment:
        for name, value in {**IN_ENVIRONMENT, "HF_TOKEN": hub.token, "HF_ENDPOINT": hub.url}.items():
            environment.setenv(name, value)
        environment.setenv("NO_PROXY", "127.0.0.1")
        environment.setenv("WANDB_MODE", "offline")
        config = folder / "webhook.json"
        config.write_text(json.dumps({"webhook_type": "raw", "callback_url": webhook.url, "progress_steps": 1}))
        settings = {
            "max_train_steps": 4,
            "validation_prompt": PROMPT,
            "validation_steps": 4,
            "report_to": "wandb,tensorboard",
            "webhook_config": config,
            "push_to_hub": True,
            "push_checkpoints_to_hub": True,
            "hub_model_id": "colors",
            "model_card_note": "Not for you.",
            "tokenizer_max_length": 96,
            "log_level": "debug",
        }
        run = SmallRun(folder, tiny_pipeline, settings, datasets=[in_bucket(buckets, folder)])
        said, _ = run.process().communicate(timeout=180)
        yield Published(run, hub, webhook, said)


def in_bucket(buckets: BucketServer, folder: Path) -> dict[str, str]:
    """An entry for images that are read with the planted keys, at an address with a password in it."""
    buckets.address("published")
    draw_set(folder / "images")
    for file in (folder / "images").iterdir():
        buckets.put("published", file.name, file.read_bytes())
    return {
        "id": "colors",
        "type": "aws",
        "aws_bucket_name": "published",
        "aws_endpoint_url": buckets.endpoint.replace("://", "://me:PlantedPasswordOfTheStore@"),
        "caption_strategy": "filename",
        "cache_dir_vae": "cache/vae",
        **IN_DATASET_FILE,
    }


def test_the_hub_holds_what_the_run_wrote(published: Published) -> None:
    files, output = published.hub.files("colors"), published.run.output
    assert published.hub.private == {"painter/colors": True}
    assert {WEIGHTS, "README.md", "checkpoint-2/manifest.json", "checkpoint-4/manifest.json"} <= files.keys()
    assert all(content == (output / path).read_bytes() for path, content in files.items())
    assert "published at" in published.said


def test_the_card_is_valid_and_tells_of_the_run(published: Published) -> None:
    card = ModelCard(published.hub.files("colors")["README.md"].decode())
    assert card.data.to_dict()["license"] == "unknown"
    assert "| colors | 7 |" in card.text
    assert "Not for you." in card.text
    (image,) = re.findall(r"!\[\]\((.*?)\) \| (.*?) \|", card.text)
    assert (image[0] in published.hub.files("colors"), image[1]) == (True, PROMPT)
    assert str(published.run.folder) not in card.text


def test_the_cards_code_draws(
    published: Published, tiny_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the folder that a person has: the base beside what was downloaded from the hub."""
    (code,) = re.findall(r"```python\n(.*?)```", (published.run.output / "README.md").read_text(), flags=re.DOTALL)
    assert "max_sequence_length=96" in code
    (tmp_path / tiny_pipeline.name).symlink_to(tiny_pipeline)
    weights = tmp_path / "painter" / "colors" / WEIGHTS
    weights.parent.mkdir(parents=True)
    weights.write_bytes(published.hub.files("colors")[WEIGHTS])
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    with Image.open("image.png") as image:
        assert image.size == (64, 64)


def test_no_secret_is_in_anything_written_or_sent(published: Published) -> None:
    """The token itself travels in headers, where it belongs; bodies and files are searched."""
    output, secrets = published.run.output, (*PLANTED, published.hub.token)
    given = {output / "multidatabackend.json"}
    written = {str(file): file.read_bytes() for file in output.rglob("*") if file.is_file() and file not in given}
    sent = {f"request {number} to the hub": body for number, body in enumerate(published.hub.bodies)}
    sent |= {f"request {number} to the webhook": each.body for number, each in enumerate(published.webhook.heard)}
    assert len(written) > 20
    assert len(sent) > 10
    everything = written | sent | {"the console": published.said.encode()}
    found = [(name, secret) for name, content in everything.items() for secret in secrets if secret.encode() in content]
    assert not found


def test_what_cannot_work_is_told_before_anything_is_encoded(
    published: Published, tmp_path: Path, tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", published.hub.url)
    monkeypatch.setenv("HF_TOKEN", "hf_AnOldTokenThatWasTakenBack")
    run = SmallRun(tmp_path, tiny_pipeline, {"push_to_hub": True, "hub_model_id": "colors"})
    draw_set(run.output / "datasets" / "colors")
    assert run.start() == 1
    assert not (run.output / "cache").exists()
    assert run.start(dry_run=True) == 0, "a dry run asks nobody"
