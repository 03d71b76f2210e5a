"""The types agree, in basedpyright's standard mode."""

import subprocess
import sys

from tests.project.sources import ROOT


def test_types_agree() -> None:
    command = [sys.executable, "-m", "basedpyright", "--pythonpath", sys.executable]
    report = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert report.returncode == 0, f"{report.stdout}{report.stderr}"
