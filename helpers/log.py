"""One set-up of logging, so that every module's logger speaks in the same way and no line tells a secret."""

import logging
import sys
import warnings
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from typing import TextIO

NOISY_LIBRARIES = ("diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "PIL")
# These tell whole addresses, which may be secrets.
SILENT_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2")
HIDDEN = "(hidden)"


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to whatever `sys.stderr` is when a line comes, which a live progress bar may have put its own in for."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class RedactFilter(logging.Filter):
    """Hides secrets in the records that pass."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), secrets=self._secrets), ()
        return True


def redact(text: str, *, secrets: Sequence[str]) -> str:
    """`text` without `secrets`, the longest of which come first."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def set_up_logging(level: int = logging.INFO) -> None:
    """Send our own messages of `level` and above to stderr, and other libraries' errors only.

    They are kept as well, until `send_log_to` says what other place they go to.
    """
    kept = MemoryHandler(capacity=1, flushLevel=logging.NOTSET, flushOnClose=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[CurrentStderr(), kept], force=True)
    for name in (*NOISY_LIBRARIES, *SILENT_LIBRARIES):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")  # what is wrong with an image is told with its name
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def set_level(name: str, *, secrets: Sequence[str]) -> None:
    """Show messages from level `name` up on stderr, `debug` with what other libraries say; `secrets` never."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactFilter(secrets))
        if isinstance(handler, CurrentStderr):
            handler.setLevel(name.upper())
    if name == "debug":
        for library in NOISY_LIBRARIES:
            logging.getLogger(library).setLevel(logging.INFO)


def send_log_to(target: logging.Handler | None) -> None:
    """Also send every message to `target`, those from before first; None: from now on to stderr only."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(target)
            handler.flush()
