"""One set-up of logging, so that every module's logger speaks in the same way."""

import logging
import sys
import warnings
from typing import TextIO

NOISY_LIBRARIES = ("diffusers", "transformers", "accelerate", "peft", "PIL", "httpx")


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is when a line comes, which a live progress bar may have put its own in for."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging(level: int = logging.INFO) -> None:
    """Send our own messages of `level` and above to stderr, and other libraries' errors only."""
    logging.basicConfig(level=level, format="%(message)s", handlers=[CurrentStderr()], force=True)
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with a picture is told with its name
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
