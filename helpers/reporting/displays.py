"""Where the console's words appear: as lines in a log, or above live bars on a terminal."""

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
