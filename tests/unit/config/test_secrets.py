"""Whatever a run is given that is secret is known to be."""

import json
from pathlib import Path

import pytest

from helpers.config.parse import parse_arguments
from helpers.config.secrets import secrets_of


def test_secrets_of_every_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = "https://discord.com/api/webhooks/1234567890/TokenOfTheWebhook"
    entry = {"id": "a", "aws_secret_access_key": "KeyOfTheBucket", "aws_endpoint_url": "https://me:PassOfTheStore@host"}
    (tmp_path / "multidatabackend.json").write_text(json.dumps([entry]))
    (tmp_path / "webhook.json").write_text(json.dumps({"webhook_type": "discord", "webhook_url": address}))
    monkeypatch.setenv("HF_TOKEN", "TokenOfTheHub")
    monkeypatch.setenv("SHORT_TOKEN", "abc")
    monkeypatch.setenv("HF_TOKEN_PATH", "/home/me/no-secret")
    words = ["--pretrained_model_name_or_path=a/b", "--max_train_steps=1", f"--output_dir={tmp_path}"]
    found = secrets_of(parse_arguments([*words, f"--webhook_config={tmp_path / 'webhook.json'}"]))
    wanted = {"KeyOfTheBucket", "PassOfTheStore", address, "TokenOfTheWebhook", "TokenOfTheHub"}
    assert wanted <= set(found)
    assert not {"abc", "/home/me/no-secret"} & set(found)
    assert [len(each) for each in found] == sorted((len(each) for each in found), reverse=True), "the longest first"
