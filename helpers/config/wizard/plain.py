"""Asks the wizard's questions without a terminal: one line per answer, so that a script can answer them.

An empty line takes the default, `-` is the empty answer, `<` goes back, and choices can be given by number. After an
invalid answer the next line is another try; if the input ends too early, nothing is written.
"""

from typing import TextIO

from helpers.config.wizard.flow import Prompt


class InputEnded(Exception):
    """The input ended before the last question was answered."""


class PlainPrompts:
    """A front end for pipes and files."""

    def __init__(self, lines: TextIO) -> None:
        self._lines = lines

    def show(self, text: str) -> None:
        """Show a text."""
        print(text)

    def ask(self, question: Prompt) -> str | None:
        """The answer in the next line; None for `<`, which goes back."""
        if question.shows:
            print(f"\n{question.shows}")
        print(f"\n[{question.chapter}, {question.progress}] {question.title}\n    {question.why}")
        for number, choice in enumerate(question.choices, 1):
            note = f" ({choice.note})" if choice.note else ""
            print(f"    {number}. {choice.label or choice.value}{note}")
        while True:
            print(f"    default: {_called(question)}\n> ", end="", flush=True)
            line = self._lines.readline()
            if not line:
                raise InputEnded(question.title)
            print(line.rstrip("\n"))
            line = line.strip()
            if line == "<":
                return None
            text = _meant(line, question)
            problem = question.problem(text)
            if not problem:
                return text
            print(f"    {text or 'nothing'} is not valid: {problem}")


def _called(question: Prompt) -> str:
    labels = {choice.value: choice.label for choice in question.choices}
    return labels.get(question.default) or question.default or "nothing"


def _meant(line: str, question: Prompt) -> str:
    """The answer in a line: a value, a label or a number of the list."""
    if not line:
        return question.default
    if line == "-":
        return ""
    values = {choice.value: choice.value for choice in question.choices}
    labels = {choice.label: choice.value for choice in question.choices if choice.label}
    numbers = {str(number): choice.value for number, choice in enumerate(question.choices, 1)}
    return {**numbers, **labels, **values}.get(line, line)
