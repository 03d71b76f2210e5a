"""Runs train.py's main and kills this very process, as `kill -9` would, when it comes to a place for the n-th time.

Usage: killed.py module:function N ARGUMENTS. The function is wrapped, not replaced: all it does is real.
"""

import importlib
import os
import signal
import sys
from typing import Any


def kill_at(place: str, *, call: int) -> None:
    """Wrap `module:attribute` (or `module:Class.method`) so that its n-th call ends the process at once."""
    module_name, _, attribute = place.partition(":")
    owner: Any = importlib.import_module(module_name)
    *parents, name = attribute.split(".")
    for parent in parents:
        owner = getattr(owner, parent)
    original = getattr(owner, name)
    calls = 0

    def counted(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **named)

    setattr(owner, name, counted)


if __name__ == "__main__":
    kill_at(sys.argv[1], call=int(sys.argv[2]))
    import train

    raise SystemExit(train.main(sys.argv[3:]))
