"""The webhook file is read before anything else, every slip in it is told, and its address never."""

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.config.files.webhook import EVENTS, Webhook, read_webhook
from helpers.config.parse import parse_arguments
from helpers.errors import ConfigError

ADDRESS = "https://discord.com/api/webhooks/1234567890/ThisIsTheSecretToken-0123456789"
DISCORD = {"webhook_type": "discord", "webhook_url": ADDRESS}
EXAMPLE = Path(__file__).resolve().parents[3] / "config" / "webhook.json.example"


def problems_of(folder: Path, content: Any) -> list[str]:
    """Each problem as `key: fix`; the address is in none."""
    path = folder / "webhook.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    webhook, problems = read_webhook(path)
    assert webhook is None
    assert not any("Token" in str(problem) for problem in problems)
    return [f"{problem.option.removeprefix('webhook.json: ')}: {problem.fix}" for problem in problems]


def test_the_example_and_what_it_leaves_out(tmp_path: Path) -> None:
    webhook, problems = read_webhook(EXAMPLE)
    assert not problems
    assert webhook is not None
    assert (webhook.kind, webhook.progress_steps) == ("discord", 100)
    least = tmp_path / "webhook.json"
    least.write_text(json.dumps([{"webhook_type": "raw", "callback_url": "http://localhost:8000/hear"}]))
    assert read_webhook(least)[0] == Webhook(kind="raw", url="http://localhost:8000/hear", events=EVENTS)
    assert "Token" not in repr(Webhook(kind="discord", url=ADDRESS))


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("error", ("errors",)),
        ("info", ("start", "images", "checkpoints", "errors", "end")),
        ("debug", EVENTS),
    ],
)
def test_an_older_file_s_level_stands_for_events(tmp_path: Path, level: str, events: tuple[str, ...]) -> None:
    path = tmp_path / "webhook.json"
    path.write_text(json.dumps(DISCORD | {"log_level": level}))
    webhook, _ = read_webhook(path)
    assert webhook is not None
    assert webhook.events == events


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (DISCORD | {"webhook_typ": "raw"}, "webhook_typ: did you mean webhook_type?"),
        (DISCORD | {"webhook_type": "discrod"}, "webhook_type: did you mean discord?"),
        ({"webhook_type": "discord", "callback_url": ADDRESS}, "webhook_url: copy the complete URL"),
        (DISCORD | {"webhook_url": ADDRESS.replace("https", "http")}, "webhook_url: copy the complete URL"),
        (DISCORD | {"webhook_url": ADDRESS.removeprefix("https://")}, "webhook_url: copy the complete URL"),
        (DISCORD | {"webhook_url": "https://[ThisIsTheSecretToken"}, "webhook_url: copy the complete URL"),
        (DISCORD | {"events": ["start", "ends"]}, "events: did you mean end?"),
        (DISCORD | {"events": "all"}, "events: use ["),
        (DISCORD | {"log_level": "infos"}, "log_level: did you mean info?"),
        (DISCORD | {"message_prefix": 3}, "message_prefix: put it in quotes"),
        (DISCORD | {"progress_steps": "10"}, "progress_steps: use 100"),
        (json.dumps(DISCORD)[:-1], "WEBHOOK_CONFIG: "),
        ("[]", "WEBHOOK_CONFIG: name a JSON file"),
    ],
)
def test_slips_are_told_with_their_cure(tmp_path: Path, content: Any, told: str) -> None:
    (problem,) = problems_of(tmp_path, content)
    assert problem.startswith(told)


def test_slips_come_with_all_others(tmp_path: Path) -> None:
    words = ["--pretrained_model_name_or_path=a/b", "--max_train_steps=1", f"--webhook_config={tmp_path / 'nowhere'}"]
    with pytest.raises(ConfigError) as caught:
        parse_arguments([*words, "--report_to=wandb,tensorbord"])
    report, webhook = caught.value.problems
    assert (report.option, report.fix) == ("REPORT_TO", "did you mean tensorboard?")
    assert (webhook.option, webhook.reason) == ("WEBHOOK_CONFIG", "there is no such file")
