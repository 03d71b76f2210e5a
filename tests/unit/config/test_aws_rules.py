"""What entries leave out about buckets is found where Amazon's own programs look for it."""

from pathlib import Path

import pytest

from helpers.config.env.aws import aws_environment


@pytest.fixture(autouse=True)
def nothing_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "PROFILE", "REGION", "DEFAULT_REGION"):
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def write(home: Path, *, credentials: str = "", config: str = "") -> None:
    (home / ".aws").mkdir()
    (home / ".aws/credentials").write_text(credentials)
    (home / ".aws/config").write_text(config)


def test_nothing_said_leaves_it_to_the_role_of_the_machine() -> None:
    found = aws_environment()
    assert (found.credentials, found.region, found.endpoint) == (None, None, None)


def test_variables_come_first_and_a_token_stays_with_its_own_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(
        tmp_path,
        credentials="[default]\naws_access_key_id = file\naws_secret_access_key = x%y\naws_session_token = t\n",
        config="[default]\nregion = eu-west-1\nendpoint_url = http://localhost:1\n",
    )
    found = aws_environment()
    assert found.credentials == ("file", "x%y", "t")
    assert (found.region, found.endpoint) == ("eu-west-1", "http://localhost:1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "mine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://localhost:2")
    found = aws_environment()
    assert found.credentials == ("mine", "hidden", None)
    assert (found.region, found.endpoint) == ("eu-west-2", "http://localhost:2")
    assert "hidden" not in repr(found)


def test_a_profile_is_found_under_its_name_in_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(
        tmp_path,
        credentials="[work]\naws_access_key_id = a\naws_secret_access_key = b\n",
        config="[profile work]\nregion = eu-west-3\n",
    )
    assert aws_environment().credentials is None
    monkeypatch.setenv("AWS_PROFILE", "work")
    assert aws_environment().credentials == ("a", "b", None)
    assert aws_environment().region == "eu-west-3"


def test_a_file_of_another_program_says_nothing(tmp_path: Path) -> None:
    write(tmp_path, credentials="no section = here", config="[default]\nregion = eu-west-1\n")
    assert aws_environment().credentials is None
    assert aws_environment().region == "eu-west-1"
