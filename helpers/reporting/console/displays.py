"""Where the console's words appear: as lines in a log, or above live bars on a terminal."""

import math
from typing import Protocol, TextIO


class Bar(Protocol):
    """Work under way."""

    def show(self, text: str, *, done: int) -> None:
        """How far it is."""
        ...

    def end(self) -> None:
        """It is over, or was left."""
        ...


class Display(Protocol):
    """Something that shows lines and bars; `seconds_between` is how often a bar wants to hear of progress."""

    seconds_between: float

    def line(self, text: str, *, warning: bool = False) -> None: ...

    def bar(self, name: str, *, total: int) -> Bar:
        """Begin a bar of `total` units; 0 where the total is not known."""
        ...

    def close(self) -> None: ...


class PlainDisplay:
    """Lines only, for a file, a pipe or a log."""

    def __init__(self, stream: TextIO, *, seconds_between: float = 10.0) -> None:
        self._stream = stream
        self.seconds_between = seconds_between

    def line(self, text: str, *, warning: bool = False) -> None:
        self._stream.write(f"warning: {text}\n" if warning else f"{text}\n")
        self._stream.flush()

    def bar(self, name: str, *, total: int) -> Bar:
        return _PlainBar(self, name)

    def close(self) -> None:
        """Every line has been written when it was said."""


class _PlainBar:
    def __init__(self, display: PlainDisplay, name: str) -> None:
        self._display, self._name = display, name

    def show(self, text: str, *, done: int) -> None:
        self._display.line(f"{self._name}: {text}")

    def end(self) -> None:
        """A line needs no clearing away."""


class WarningsOnly:
    """A display that shows another's warnings, or (`nothing`) not even these."""

    def __init__(self, display: PlainDisplay, *, nothing: bool) -> None:
        self._display, self._nothing = display, nothing
        self.seconds_between = math.inf

    def line(self, text: str, *, warning: bool = False) -> None:
        if warning and not self._nothing:
            self._display.line(text, warning=True)

    def bar(self, name: str, *, total: int) -> Bar:
        return _NoBar()

    def close(self) -> None:
        self._display.close()


class _NoBar:
    def show(self, text: str, *, done: int) -> None:
        """Nothing is shown."""

    def end(self) -> None:
        """Nothing was shown."""
