"""Files and functions stay small enough to be read at once."""

import ast

from tests.project.sources import name_of, python_files

FILE_LINES = 350
FUNCTION_LINES = 50
CODE = ("helpers", "install", "config", "benchmarks")


def test_files_are_short() -> None:
    lengths = {name_of(file): len(file.read_text(encoding="utf-8").splitlines()) for file in python_files()}
    long = [f"{name}: {lines} lines" for name, lines in lengths.items() if lines > FILE_LINES]
    assert not long, f"Split these into files of at most {FILE_LINES} lines: {long}"


def test_functions_are_short() -> None:
    long: list[str] = []
    for file in [*python_files(*CODE), *(file for file in python_files() if file.name in ("train.py", "configure.py"))]:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES:
                    long.append(f"{name_of(file)}:{node.lineno} {node.name}: {lines} lines")
    assert not long, f"Split these into functions of at most {FUNCTION_LINES} lines: {long}"
