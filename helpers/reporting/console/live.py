"""Live progress bars on a terminal, with rich, which is imported only then."""

from typing import TextIO

from rich.console import Console as RichConsole
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from helpers.reporting.console.displays import Bar


class _SteadyConsole(RichConsole):
    """Keeps the cursor visible, so that a killed run does not leave a terminal without one."""

    def show_cursor(self, show: bool = True) -> bool:
        return False


class LiveDisplay:
    """Bars at the bottom of the terminal, and lines that stay above them.

    Redrawn on each update, and not by a thread of rich's, which would slow down the training loop.
    """

    def __init__(self, stream: TextIO, *, seconds_between: float = 0.2) -> None:
        self.seconds_between = seconds_between
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, style="bold"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}", markup=False),
            console=_SteadyConsole(file=stream),
            auto_refresh=False,
            transient=True,
        )
        self._progress.start()

    def line(self, text: str, *, warning: bool = False) -> None:
        style = "yellow" if warning else None
        self._progress.console.print(
            f"warning: {text}" if warning else text, style=style, markup=False, highlight=False, soft_wrap=True
        )

    def bar(self, name: str, *, total: int) -> Bar:
        task = self._progress.add_task(name, total=total or None, text="")
        self._progress.refresh()
        return _LiveBar(self._progress, task)

    def close(self) -> None:
        self._progress.stop()


class _LiveBar:
    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task

    def show(self, text: str, *, done: int) -> None:
        self._progress.update(self._task, completed=done, text=text, refresh=True)

    def end(self) -> None:
        self._progress.remove_task(self._task)
        self._progress.refresh()
