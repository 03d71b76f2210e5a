"""Whose keys open a bucket: the entry's, else the environment's, else those of the profile in AWS's own file."""

import os
from configparser import ConfigParser
from pathlib import Path

from helpers.config.dataset_types import BucketKeys


def credentials_of(said: BucketKeys) -> tuple[str, str, str | None] | None:
    """Access key, secret and session token; None where variables or the machine's role are to be asked."""
    if said.aws_access_key_id is not None and said.aws_secret_access_key is not None:
        return said.aws_access_key_id.get_secret_value(), said.aws_secret_access_key.get_secret_value(), None
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return None
    file = Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials")).expanduser()
    profiles = ConfigParser(interpolation=None)
    profiles.read(file, encoding="utf-8")
    profile = os.environ.get("AWS_PROFILE", "default")
    if not profiles.has_option(profile, "aws_secret_access_key"):
        return None
    keys = profiles[profile]
    return keys["aws_access_key_id"], keys["aws_secret_access_key"], keys.get("aws_session_token")
