"""AWS settings of the environment, in AWS's own order: variables, then the profile in AWS's files."""

import os
from configparser import ConfigParser, Error
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class AwsEnvironment:
    """Settings for entries that do not set their own.

    credentials: access key, secret and session token; None to use the role of the machine.
    """

    credentials: tuple[str, str, str | None] | None = field(repr=False)
    region: str | None
    endpoint: str | None


def aws_environment() -> AwsEnvironment:
    """The current settings of the environment."""
    name = os.environ.get("AWS_PROFILE") or "default"
    profile = _section("AWS_CONFIG_FILE", "~/.aws/config", name if name == "default" else f"profile {name}")
    profile |= _section("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", name)
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        keys = {key: os.environ.get(key.upper(), "") for key in KEYS}
    else:
        keys = {key: profile.get(key, "") for key in KEYS}
    access, secret, token = keys.values()
    return AwsEnvironment(
        credentials=(access, secret, token or None) if access and secret else None,
        region=_first("AWS_REGION", "AWS_DEFAULT_REGION") or profile.get("region"),
        endpoint=_first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL") or profile.get("endpoint_url"),
    )


KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


def _first(*variables: str) -> str | None:
    return next((value for name in variables if (value := os.environ.get(name))), None)


def _section(variable: str, usual: str, name: str) -> dict[str, str]:
    """A section of the file that `variable` names, else of the default file; empty if there is none."""
    parser = ConfigParser(interpolation=None)
    try:
        parser.read(Path(os.environ.get(variable) or usual).expanduser(), encoding="utf-8")
    except (Error, UnicodeDecodeError):  # the file of another program: its mistakes are not ours to report
        return {}
    return dict(parser[name]) if parser.has_section(name) else {}
