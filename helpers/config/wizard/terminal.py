"""Asks the wizard's questions in a terminal: lists by arrow keys, text with its errors shown, and going back.

A question shrinks to one line once answered, so that earlier answers stay in view.
"""

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from helpers.config.wizard.flow import Choice, Prompt

if TYPE_CHECKING:
    from questionary import Question, Style

MOST_COLUMNS = 100
ESCAPE_SECONDS = 0.15
"""How long a lone Escape waits to see whether it is the first letter of an arrow key."""

LIST_KEYS = "↑↓ choose · enter accept · esc back · ctrl-c quit"
TEXT_KEYS = "enter accept · esc back · ctrl-c quit"
OTHER = "\0other"
BACK = "\0back"

BOLD, DIM, RED, ACCENT, PLAIN = "\033[1m", "\033[2m", "\033[31m", "\033[36m", "\033[0m"


class Terminal:
    """The front end for a terminal."""

    def __init__(self) -> None:
        self._chapter = ""
        self._answers_above = 0

    def show(self, text: str) -> None:
        """Show a text, lines of a title (`# …`) in bold."""
        for line in text.splitlines():
            print(f"{BOLD}{line[2:]}{PLAIN}" if line.startswith("# ") else line)

    def ask(self, question: Prompt) -> str | None:
        """The answer, checked; None for Escape, which goes back; raises KeyboardInterrupt for Ctrl-C."""
        if question.chapter != self._chapter:
            self._chapter, self._answers_above = question.chapter, 0
            print(f"\n{ACCENT}━━{PLAIN} {BOLD}{question.chapter}{PLAIN}")
        if question.shows:
            self._answers_above = 0
            self.show(f"\n{question.shows}")
        height = _head(question)
        text = _answered(question)
        self._shrink(question, text, height=height)
        return text

    def _shrink(self, question: Prompt, text: str | None, *, height: int) -> None:
        """Replace the question with one line; when going back, also remove the line of the question before."""
        if text is None:
            again = min(1, self._answers_above)
            _erase(height + again)
            self._answers_above -= again
        else:
            columns = shutil.get_terminal_size().columns - 1
            shown = textwrap.shorten(
                _called(question, text), max(10, columns - 4 - len(question.title)), placeholder="…"
            )
            _erase(height)
            print(f"   {DIM}{question.title}{PLAIN} {ACCENT}{shown}{PLAIN}")
            self._answers_above += 1


def _answered(question: Prompt) -> str | None:
    """A valid answer, from the list or typed; what is wrong with an invalid one is shown above it."""
    offered = [choice.value for choice in question.choices]
    default, typing, complaint = question.default, not offered, 0
    while True:
        text = _write(question, default=default) if typing else _pick(question, default=default)
        _erase(complaint)
        complaint = 0
        if text == OTHER:
            default, typing = "" if default in offered else default, True
        elif text is None and typing and offered:
            default, typing = OTHER, False
        elif text is None or not (problem := _problem(question, text)):
            return text
        else:
            default, complaint = text, _complain(problem)


def _problem(question: Prompt, text: str) -> str:
    """What is wrong with an answer; reading a large folder takes a while."""
    if not question.folder:
        return question.problem(text)
    print(f"   {DIM}reading the folder …{PLAIN}", flush=True)
    problem = question.problem(text)
    _erase(1)
    return problem


def _complain(problem: str) -> int:
    """Show what is wrong with an answer; the number of lines that takes."""
    lines = [*textwrap.wrap(problem, _columns()), ""]
    for line in lines:
        print(f"   {RED}{line}{PLAIN}")
    return len(lines)


def _columns() -> int:
    return min(shutil.get_terminal_size().columns, MOST_COLUMNS) - 6


def _erase(lines: int) -> None:
    """Remove the lines above the cursor."""
    if lines:
        print(f"\033[{lines}F\033[J", end="", flush=True)


def _head(question: Prompt) -> int:
    """Show the question and why it is asked; the number of lines that takes."""
    why = textwrap.wrap(question.why, _columns())
    print(f"\n   {BOLD}{question.title}{PLAIN}  {DIM}{question.progress}{PLAIN}")
    for line in why:
        print(f"   {DIM}{line}{PLAIN}")
    print()
    return len(why) + 3


def _pick(question: Prompt, *, default: str) -> str | None:
    import questionary

    choices = [_entry(choice, width=_widest(question)) for choice in question.choices]
    if question.other:
        choices.append(questionary.Choice(title=[("class:text", f"{question.other} …")], value=OTHER))
    known = [each.value for each in choices]
    asked = questionary.select(
        "",
        choices=choices,
        default=default if default in known else OTHER,
        qmark=" ",
        pointer="  ❯",
        instruction=LIST_KEYS,
        style=_style(),
        erase_when_done=True,
    )
    return _answer(asked)


def _entry(choice: Choice, *, width: int) -> Any:
    import questionary

    label = choice.label or choice.value
    title = [("class:text", f"{label:<{width}}" if choice.note else label)]
    if choice.note:
        title.append(("class:note", f"  {choice.note}"))
    return questionary.Choice(title=title, value=choice.value)


def _widest(question: Prompt) -> int:
    return max(len(choice.label or choice.value) for choice in question.choices)


def _write(question: Prompt, *, default: str) -> str | None:
    import questionary
    from prompt_toolkit.completion import PathCompleter

    keys = f"tab completes · {TEXT_KEYS}" if question.folder else TEXT_KEYS
    asked = questionary.text(
        f"  {keys}",
        instruction="\n   ❯",
        default=default,
        qmark="",
        completer=PathCompleter(only_directories=True, expanduser=True) if question.folder else None,
        complete_while_typing=False,
        style=_style(("instruction", "fg:ansicyan bold")),
        erase_when_done=True,
    )
    text = _answer(asked)
    return text if text is None else text.strip()


def _answer(asked: "Question") -> str | None:
    """The answer; None if Escape was pressed."""
    from prompt_toolkit.key_binding import KeyBindings, merge_key_bindings

    bindings = KeyBindings()

    @bindings.add("escape")
    def _(event: Any) -> None:
        event.app.exit(result=BACK)

    application = asked.application
    own = [application.key_bindings] if application.key_bindings else []
    application.key_bindings = merge_key_bindings([*own, bindings])
    application.ttimeoutlen = application.timeoutlen = ESCAPE_SECONDS
    text = asked.unsafe_ask()
    return None if text == BACK else text


def _called(question: Prompt, text: str) -> str:
    labels = {choice.value: choice.label for choice in question.choices if choice.label}
    return labels.get(text, text) or "nothing"


def _style(*more: tuple[str, str]) -> "Style":
    import questionary

    return questionary.Style(
        [
            ("question", "nobold fg:ansibrightblack"),
            ("qmark", "fg:ansicyan"),
            ("pointer", "fg:ansicyan bold"),
            ("highlighted", "fg:ansicyan bold"),
            ("selected", "noinherit"),
            ("instruction", "fg:ansibrightblack"),
            ("note", "fg:ansibrightblack"),
            ("answer", "nobold fg:ansidefault"),
            *more,
        ]
    )
