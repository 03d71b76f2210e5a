"""The memory estimate is held against what a real run of a model of 28 M parameters needs at its highest."""

import sys
from pathlib import Path

import pytest

from benchmarks.memory import estimate_of, peaks_of, prepare


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can start the high-water mark of memory again")
def test_the_estimate_is_within_a_fifth_of_measured_peaks(tmp_path: Path) -> None:
    prepare(tmp_path)
    settings = {"gradient_checkpointing": False}
    estimate, measured = estimate_of(tmp_path, settings), peaks_of(tmp_path, settings)
    for part in ("caching", "training", "validation"):
        expected = getattr(estimate, f"{part}_bytes") - estimate.overhead_bytes
        assert expected == pytest.approx(measured[part], rel=0.2), part
