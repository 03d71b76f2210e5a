"""ruff finds nothing to mend, and every file is laid out as ruff lays it out."""

import subprocess
import sys

import pytest

from tests.project.sources import ROOT


@pytest.mark.parametrize("check", [["check", "--output-format=concise"], ["format", "--check"]], ids=["lint", "format"])
def test_ruff_has_nothing_to_say(check: list[str]) -> None:
    report = subprocess.run([sys.executable, "-m", "ruff", *check, "."], cwd=ROOT, capture_output=True, text=True)
    fix = "ruff check --fix . && ruff format ."
    assert report.returncode == 0, f"Try `{fix}`.\n{report.stdout}{report.stderr}"
