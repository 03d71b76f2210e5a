"""Small files that are written again and again, and that whoever reads them finds whole."""

from pathlib import Path


def atomic_write_text(path: Path, text: str) -> None:
    """Let `path` hold `text` from one moment to the next; what it held before stays until then."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)
