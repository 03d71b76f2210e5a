"""Asks the wizard's questions in a terminal: lists by arrow keys, texts with their mistakes told below, a way back.

A question and its answer shrink to one line once answered, so that what was said stays in view.
"""

import shutil
import textwrap
from typing import TYPE_CHECKING, Any

from helpers.config.wizard_flow import Choice, Posed

if TYPE_CHECKING:
    from questionary import Question, Style

MOST_COLUMNS = 100
ESCAPE_SECONDS = 0.15
"""How long a lone Escape waits to see whether it is the first letter of an arrow key."""

LIST_KEYS = "↑↓ choose · enter take · esc back · ctrl-c leave"
TEXT_KEYS = "enter take · esc back · ctrl-c leave"
OTHER = "\0other"
GONE_BACK = "\0back"

BOLD, DIM, ACCENT, PLAIN = "\033[1m", "\033[2m", "\033[36m", "\033[0m"
ERASE_LINES_ABOVE = "\033[{}F\033[J"


class Terminal:
    """A front end for a person."""

    def __init__(self) -> None:
        self._chapter = ""
        self._answers_above = 0

    def tell(self, text: str) -> None:
        """Show a text, lines of a title (`# …`) in bold."""
        for line in text.splitlines():
            print(f"{BOLD}{line[2:]}{PLAIN}" if line.startswith("# ") else line)

    def ask(self, question: Posed) -> str | None:
        """The answer, checked; None for Escape, which goes back; raises KeyboardInterrupt for Ctrl-C."""
        if question.chapter != self._chapter:
            self._chapter, self._answers_above = question.chapter, 0
            print(f"\n{ACCENT}━━{PLAIN} {BOLD}{question.chapter}{PLAIN}")
        if question.shows:
            self._answers_above = 0
            self.tell(f"\n{question.shows}")
        height = _head(question)
        text = self._choose(question) if question.choices else _write(question, default=question.default)
        self._shrink(question, text, height=height)
        return text

    def _shrink(self, question: Posed, text: str | None, *, height: int) -> None:
        """Put one line in the question's place; going back, take away the line of the question before as well."""
        if text is None:
            again = min(1, self._answers_above)
            print(ERASE_LINES_ABOVE.format(height + again), end="")
            self._answers_above -= again
        else:
            columns = shutil.get_terminal_size().columns - 1
            said = textwrap.shorten(
                _called(question, text), max(10, columns - 4 - len(question.title)), placeholder="…"
            )
            print(ERASE_LINES_ABOVE.format(height), end="")
            print(f"   {DIM}{question.title}{PLAIN} {ACCENT}{said}{PLAIN}")
            self._answers_above += 1

    def _choose(self, question: Posed) -> str | None:
        """An answer from the list, or one that is typed in the place of the list."""
        default = question.default
        while True:
            text = _pick(question, default=default)
            if text != OTHER:
                return text
            offered = [choice.value for choice in question.choices]
            text = _write(question, default="" if question.default in offered else question.default)
            if text is not None:
                return text
            default = OTHER


def _head(question: Posed) -> int:
    """Show the question and why it is asked; the number of lines that takes."""
    columns = min(shutil.get_terminal_size().columns, MOST_COLUMNS) - 6
    why = textwrap.wrap(question.why, columns)
    print(f"\n   {BOLD}{question.title}{PLAIN}  {DIM}{question.progress}{PLAIN}")
    for line in why:
        print(f"   {DIM}{line}{PLAIN}")
    print()
    return len(why) + 3


def _pick(question: Posed, *, default: str) -> str | None:
    import questionary

    choices = [_entry(choice, width=_widest(question)) for choice in question.choices]
    if question.other:
        choices.append(questionary.Choice(title=[("class:text", f"{question.other} …")], value=OTHER))
    known = [each.value for each in choices]
    asked = questionary.select(
        "",
        choices=choices,
        default=default if default in known else OTHER,
        qmark="  ",
        pointer="  ❯",
        instruction=f"{LIST_KEYS}",
        style=_style(),
        erase_when_done=True,
    )
    while True:
        text = _answer(asked)
        problem = "" if text is None or text == OTHER else question.problem(text)
        if not problem:
            return text
        print(f"   {problem}")


def _entry(choice: Choice, *, width: int) -> Any:
    import questionary

    label = choice.label or choice.value
    title = [("class:text", f"{label:<{width}}" if choice.note else label)]
    if choice.note:
        title.append(("class:note", f"  {choice.note}"))
    return questionary.Choice(title=title, value=choice.value)


def _widest(question: Posed) -> int:
    return max(len(choice.label or choice.value) for choice in question.choices)


def _write(question: Posed, *, default: str) -> str | None:
    import questionary

    ask = questionary.path if question.folder else questionary.text
    more: dict[str, Any] = {"only_directories": True} if question.folder else {"instruction": ""}
    asked = ask(
        "",
        default=default,
        qmark="   ❯",
        validate=lambda text: question.problem(text.strip()) or True,
        validate_while_typing=False,
        bottom_toolbar=[("class:keys", f"   {TEXT_KEYS}")],
        style=_style(),
        erase_when_done=True,
        **more,
    )
    text = _answer(asked)
    return text if text is None else text.strip()


def _answer(asked: "Question") -> str | None:
    """What the person answers; None where Escape was pressed."""
    from prompt_toolkit.key_binding import KeyBindings, merge_key_bindings

    bindings = KeyBindings()

    @bindings.add("escape")
    def _(event: Any) -> None:
        event.app.exit(result=GONE_BACK)

    application = asked.application
    own = [application.key_bindings] if application.key_bindings else []
    application.key_bindings = merge_key_bindings([*own, bindings])
    application.ttimeoutlen = application.timeoutlen = ESCAPE_SECONDS
    text = asked.unsafe_ask()
    return None if text == GONE_BACK else text


def _called(question: Posed, text: str) -> str:
    labels = {choice.value: choice.label for choice in question.choices if choice.label}
    return labels.get(text, text) or "nothing"


def _style() -> "Style":
    import questionary

    return questionary.Style(
        [
            ("qmark", "fg:ansicyan"),
            ("pointer", "fg:ansicyan bold"),
            ("highlighted", "fg:ansicyan bold"),
            ("selected", "noinherit"),
            ("instruction", "fg:ansibrightblack"),
            ("note", "fg:ansibrightblack"),
            ("keys", "noreverse fg:ansibrightblack"),
            ("bottom-toolbar", "noreverse"),
            ("validation-toolbar", "noreverse fg:ansired"),
        ]
    )
