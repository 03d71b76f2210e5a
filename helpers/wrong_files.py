"""Detects files with the wrong content: a git-lfs pointer, a web page, a broken download."""

import shlex
from pathlib import Path

BEGINNING_BYTES = 512
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PAGE_STARTS = (b"<!doctype html", b"<html", b"<head", b"<?xml")
PICKLE_STARTS = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")
BLOBS = "blobs"
"""The folder of the hub's cache that its snapshots link to."""
LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, in this many bytes."""


def wrong_content(path: Path) -> tuple[str, str] | None:
    """Why a file cannot be part of a model, and the fix; None if its first bytes look fine.

    Also checks text files such as a config: git-lfs, a failed download or an unfinished copy can break any file.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            beginning = file.read(BEGINNING_BYTES)
    except OSError as error:
        dangling = path.is_symlink() and not path.exists()
        reason = f"it is a link to {path.readlink()}, which does not exist" if dangling else f"{error.strerror}"
        return reason, again(path)
    if size == 0:
        return "it is empty", again(path)
    if beginning.startswith(LFS_POINTER):
        return f"it is a git-lfs pointer of {size} bytes, not the file itself", _lfs_fix(path)
    if beginning.lstrip().lower().startswith(PAGE_STARTS):
        fix = f"{again(path)}; for a gated model, log in first with `hf auth login`"
        return "it is a web page, not the file itself", fix
    if beginning.startswith(b"GGUF"):
        return "it is a GGUF file, which cannot be trained", "name the model's .safetensors file, or a folder or hub id"
    if beginning.startswith(PICKLE_STARTS) and beginning[LENGTH_BYTES : LENGTH_BYTES + 1] != b"{":
        reason = "it is a PyTorch file (.ckpt, .bin, .pt), which can run code and is never opened"
        return reason, "name a .safetensors file"
    if not beginning.strip(b"\0"):
        return "it begins with zeros: the download did not finish", again(path)
    return None


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is the pointer that git checks out when git-lfs is not installed."""
    with path.open("rb") as file:
        return file.read(len(LFS_POINTER)) == LFS_POINTER


def _lfs_fix(path: Path) -> str:
    folder = next((each for each in path.absolute().parents if (each / ".git").exists()), path.absolute().parent)
    return f"install git-lfs, then run: git -C {shlex.quote(str(folder))} lfs pull"


def again(path: Path) -> str:
    """The fix for a broken download."""
    blob = path.resolve()
    if blob.parent.name == BLOBS:
        return f"delete {blob}: the next start downloads it again"
    return "download it again"
