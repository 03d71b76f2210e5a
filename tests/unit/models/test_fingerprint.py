"""A fingerprint changes with what a model computes, and with nothing else."""

import os
from hashlib import blake2b
from pathlib import Path

import pytest

from helpers.models.formats import fingerprint
from helpers.models.formats.fingerprint import config_fingerprint, files_fingerprint


def test_words_are_not_run_together() -> None:
    assert fingerprint.fingerprint("ab", "c") != fingerprint.fingerprint("a", "bc")


def test_a_config_s_saver_and_key_order_do_not_count() -> None:
    mine = {"width": 8, "depth": 2, "_name_or_path": "/home/me", "transformers_version": "5.0"}
    yours = {"depth": 2, "width": 8, "_diffusers_version": "0.42"}
    assert config_fingerprint(mine) == config_fingerprint(yours)
    assert config_fingerprint({**mine, "width": 9}) != config_fingerprint(mine)


def test_folders_and_dates_do_not_count(tmp_path: Path) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "weights").write_bytes(b"1234")
    os.utime(tmp_path / "there" / "weights", (0, 0))
    here, there = ([tmp_path / name / "weights"] for name in ("here", "there"))
    assert files_fingerprint(here) == files_fingerprint(there)


@pytest.mark.parametrize("whole_below", [1 << 20, 1 << 10])
def test_a_change_of_content_or_length_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_below: int
) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_BELOW_BYTES", whole_below)
    monkeypatch.setattr(fingerprint, "SAMPLE_BYTES", 64)
    file = tmp_path / "weights"
    content = bytes(range(256)) * 400
    seen = set()
    trained = bytes(byte ^ 1 for byte in content)
    for written in (content, content + b"!", b"!" + content[1:], content[:-1] + b"!", trained):
        file.write_bytes(written)
        seen.add(files_fingerprint([file]))
    assert len(seen) == 5


@pytest.mark.parametrize("size", [20 << 20, (32 << 20) + 1, 50 << 20])
def test_a_file_s_fingerprint_stays_what_it_is_so_that_caches_stay(tmp_path: Path, size: int) -> None:
    """BLAKE2b of all of it, or, beyond 32 MiB, of 64 pieces of 64 KiB spread evenly from its beginning to its end."""
    file, piece = tmp_path / "weights", 64 << 10
    content = os.urandom(1 << 20) * (size >> 20) + b"!" * (size % (1 << 20))
    file.write_bytes(content)
    starts = [number * (size - piece) // 63 for number in range(64)]
    read = content if size <= 32 << 20 else b"".join(content[start : start + piece] for start in starts)
    facts = ("weights", str(size), blake2b(read, digest_size=16).hexdigest())
    framed = "".join(f"{len(fact)}:{fact};" for fact in facts)
    assert files_fingerprint([file]) == blake2b(framed.encode(), digest_size=16).hexdigest()


def test_every_byte_of_a_file_of_32_mib_counts(tmp_path: Path) -> None:
    file, content = tmp_path / "weights", bytearray(32 << 20)
    file.write_bytes(content)
    before = files_fingerprint([file])
    content[100_000] = 1  # behind the first 64 KiB, before the next piece of a sampled file
    file.write_bytes(content)
    assert files_fingerprint([file]) != before
