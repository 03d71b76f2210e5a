"""Every secret that a run is given, to remove them from all that is shown, written or sent."""

import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from helpers.config.datasets.file import dataset_file_path
from helpers.config.files.json_file import WrongJson, read_json
from helpers.config.files.webhook import read_webhook
from helpers.config.train_config import RunConfig

SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_KEY|ACCESS_KEY_ID|_KEY)$", flags=re.IGNORECASE)
PASSWORD_IN_ADDRESS = re.compile(r"://[^/@\s:]*:([^/@\s]+)@")
SHORTEST = 8
"""Shorter texts are words that also occur in ordinary lines."""


def secrets_of(config: RunConfig) -> tuple[str, ...]:
    """The secrets in the environment, the dataset file and the webhook file, the longest first."""
    found = {*_in_mapping(os.environ), *_in_json(dataset_file_path(config)), *_in_webhook(config)}
    return tuple(sorted((secret for secret in found if len(secret) >= SHORTEST), key=len, reverse=True))


def _in_mapping(values: Mapping[str, Any]) -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, str):
            if SECRET_NAME.search(name):
                yield value
            yield from PASSWORD_IN_ADDRESS.findall(value)


def _in_json(path: Path) -> Iterator[str]:
    """The secrets in a file; mistakes in it are reported where it is read."""
    try:
        values = read_json(path)
    except WrongJson:
        return
    for entry in values if isinstance(values, list) else ():
        if isinstance(entry, dict):
            yield from _in_mapping(entry)


def _in_webhook(config: RunConfig) -> Iterator[str]:
    """The URL, and the parts of it that give access."""
    if config.reporting.webhook_config:
        webhook, _ = read_webhook(Path(config.reporting.webhook_config).expanduser())
        if webhook is not None:
            path = urlsplit(webhook.url).path
            yield from (webhook.url, path, path.rpartition("/")[2])
