"""The house rules that neither ruff nor import-linter knows: each names its one place for a thing."""

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.project.sources import HELPERS, name_of, python_files


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _imported(node: ast.AST) -> set[str]:
    """The full names an import statement brings: `from os import environ` brings os and os.environ."""
    if isinstance(node, ast.Import):
        return {alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return set()


def reads_the_environment(node: ast.AST) -> bool:
    names = {"os.environ", "os.getenv"}
    return _dotted(node) in names or bool(_imported(node) & names)


def parses_arguments(node: ast.AST) -> bool:
    return "argparse" in _imported(node)


def prints(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and _dotted(node.func) == "print"


def ends_the_program(node: ast.AST) -> bool:
    called = _dotted(node.func) if isinstance(node, ast.Call) else ""
    return called in {"sys.exit", "exit", "quit", "SystemExit"} or "sys.exit" in _imported(node)


def rebinds_a_global(node: ast.AST) -> bool:
    return isinstance(node, ast.Global)


def unpickles(node: ast.AST) -> bool:
    """Names that run what a file says; numpy's own reader refuses pickles unless `allow_pickle` is said."""
    if isinstance(node, ast.keyword):
        return node.arg == "allow_pickle" and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    return _dotted(node) == "torch.load" or bool(_imported(node) & {"pickle", "dill", "cloudpickle", "torch.load"})


# Programs of their own, which begin and end by themselves: `python -m helpers.convert`.
COMMANDS = ("cache/__main__.py", "convert.py", "recipe.py")

RULES: dict[str, tuple[Callable[[ast.AST], bool], tuple[str, ...]]] = {
    "os.environ is read in config/ only": (reads_the_environment, ("config/",)),
    "argparse is for the commands beside training": (parses_arguments, ("convert.py",)),
    "print is for reporting/console/ and config/wizard/": (prints, ("reporting/console/", "config/wizard/")),
    "only train.py and the launcher end the program": (
        ends_the_program,
        ("config/env/launch.py", "config/env/supervise.py", *COMMANDS),
    ),
    "no global is rebound": (rebinds_a_global, ()),
    "nothing is ever unpickled": (unpickles, ()),
}


def breaches(code: str, *, rule: Callable[[ast.AST], bool]) -> Iterator[int]:
    """The lines of `code` that break the rule."""
    return (getattr(node, "lineno", 0) for node in ast.walk(ast.parse(code)) if rule(node))


def _excused(file: Path, *, places: tuple[str, ...]) -> bool:
    return file.relative_to(HELPERS).as_posix().startswith(places) if places else False


@pytest.mark.parametrize("promise", RULES)
def test_the_house_rules_hold(promise: str) -> None:
    rule, places = RULES[promise]
    files = [file for file in python_files("helpers") if not _excused(file, places=places)]
    found = [
        f"{name_of(file)}:{line}" for file in files for line in breaches(file.read_text(encoding="utf-8"), rule=rule)
    ]
    assert not found, f"{promise}, but see {found}"


@pytest.mark.parametrize(
    ("promise", "code"),
    [
        ("os.environ is read in config/ only", "import os\nhome = os.environ['HOME']"),
        ("os.environ is read in config/ only", "from os import environ"),
        ("argparse is for the commands beside training", "from argparse import ArgumentParser"),
        ("print is for reporting/console/ and config/wizard/", "print('step')"),
        ("only train.py and the launcher end the program", "import sys\nsys.exit(1)"),
        ("only train.py and the launcher end the program", "raise SystemExit(1)"),
        ("no global is rebound", "def f():\n    global x"),
        ("nothing is ever unpickled", "import numpy as np\nnp.load('x.npy', allow_pickle=True)"),
        ("nothing is ever unpickled", "import torch\ntorch.load('x.pt')"),
    ],
)
def test_a_breach_is_noticed(promise: str, code: str) -> None:
    assert list(breaches(code, rule=RULES[promise][0]))


def test_every_module_says_why_it_exists() -> None:
    silent = [
        name_of(file) for file in python_files("helpers") if not ast.get_docstring(ast.parse(file.read_text("utf-8")))
    ]
    assert not silent, f"These modules need a first sentence: {silent}"
