"""Imports go downwards only, and each large library has one place: the contracts of pyproject.toml."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.project.sources import HELPERS, ROOT, name_of

CONTRACTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]

BREACHES = {
    "layers": ("storage/local.py", "import helpers.data"),
    "models": ("reporting/publish/hub.py", "import helpers.storage"),
    "accelerate": ("training/loop.py", "import accelerate"),
    "families": ("training/checkpoint/export.py", "from peft import LoraConfig"),
    "object-store": ("data/catalog/build.py", "import obstore"),
    "tables": ("cache/shard.py", "from pyarrow import parquet"),
    "hub": ("reporting/console/console.py", "import huggingface_hub"),
}

CONFIG_LIBRARIES = {
    "wizard/terminal.py": {"questionary", "prompt_toolkit"},
    "env/accelerate_file.py": {"yaml"},  # comes with accelerate; imported only where its file is there
}


def lint_imports(folder: Path, *, only: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run import-linter over the `helpers` package in `folder` with this repository's contracts."""
    command = (
        "import sys; sys.path.insert(0, '.'); from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    chosen = ["--contract", only] if only else []
    arguments = ["--no-cache", "--config", str(ROOT / "pyproject.toml"), *chosen]
    return subprocess.run([sys.executable, "-c", command, *arguments], cwd=folder, capture_output=True, text=True)


def test_imports_go_downwards_only() -> None:
    report = lint_imports(ROOT)
    assert report.returncode == 0, f"{report.stdout[report.stdout.find('Contracts') :]}\n{report.stderr}"


@pytest.mark.parametrize("contract", [contract["id"] for contract in CONTRACTS])
def test_each_contract_notices_its_breach(contract: str, tmp_path: Path) -> None:
    module, line = BREACHES[contract]
    for layer in (*HELPERS.rglob("__init__.py"), *HELPERS.glob("*.py")):
        copy = tmp_path / layer.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text("")
    assert lint_imports(tmp_path, only=contract).returncode == 0
    (tmp_path / "helpers" / module).write_text(f"def later():\n    {line}\n")
    assert "BROKEN" in lint_imports(tmp_path, only=contract).stdout


def test_config_imports_the_standard_library_and_pydantic_only() -> None:
    """The launcher and the wizard start in well under a second; the wizard's terminal has its keys from questionary."""
    libraries = sys.stdlib_module_names | {"helpers", "pydantic", "pydantic_core"}
    strangers: list[str] = []
    for file in sorted((HELPERS / "config").rglob("*.py")):
        allowed = libraries | CONFIG_LIBRARIES.get(file.relative_to(HELPERS / "config").as_posix(), set())
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            strangers += [
                f"{name_of(file)}:{node.lineno} {name}" for name in names if name.split(".")[0] not in allowed
            ]
    assert not strangers
