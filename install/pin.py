"""Writes install/requirements*.txt from poetry.lock, so that pip and poetry install the same versions.

Run it after `poetry lock`. tests/project/test_install.py fails while the files differ from what this writes.
"""

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

# PyTorch names its own CUDA parts exactly, and which ones depends on the build: its wheel decides, not this list.
BROUGHT_BY_TORCH = ("cuda-", "nvidia-", "triton")

HEADING = "# Written by install/pin.py from poetry.lock: do not edit.\n"


def pins(group: str) -> list[str]:
    """The requirement lines of one dependency group, sorted by name, with the marker that says where each is needed."""
    locked = tomllib.loads((ROOT / "poetry.lock").read_text(encoding="utf-8"))
    lines: list[str] = []
    for package in locked["package"]:
        if group not in package["groups"] or package["name"].startswith(BROUGHT_BY_TORCH):
            continue
        markers = package.get("markers", "")
        marker = markers if isinstance(markers, str) else markers.get(group, "")
        lines.append(f"{package['name']}=={package['version']}" + (f" ; {marker}" if marker else ""))
    return sorted(lines)


def requirements_files() -> dict[Path, str]:
    """Each requirements file and what should stand in it."""
    needed = pins("main")
    for_developers = [line for line in pins("dev") if line not in needed]
    return {
        ROOT / "install" / "requirements.txt": HEADING + "\n".join(needed) + "\n",
        ROOT / "install" / "requirements-dev.txt": HEADING + "\n".join(["-r requirements.txt", *for_developers]) + "\n",
    }


if __name__ == "__main__":
    for path, content in requirements_files().items():
        path.write_text(content, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}: {len(content.splitlines()) - 1} lines")
