"""The set-up of logging: one format for every module's logger, and no secret in any line."""

import logging
import sys
import warnings
from collections.abc import Sequence
from logging.handlers import MemoryHandler
from typing import TextIO

NOISY_LIBRARIES = ("diffusers", "transformers", "accelerate", "peft", "bitsandbytes", "PIL")
# These log full URLs, which may contain secrets.
SILENT_LIBRARIES = ("httpx", "httpx2", "httpcore", "httpcore2")
HIDDEN = "(hidden)"


class CurrentStderr(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, which a live progress bar may have replaced."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class RedactFilter(logging.Filter):
    """Removes secrets from log records."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), secrets=self._secrets), ()
        return True


def redact(text: str, *, secrets: Sequence[str]) -> str:
    """`text` with every one of `secrets`, sorted longest first, replaced."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def set_up_logging(level: int = logging.INFO) -> None:
    """Send our own messages of `level` and above to stderr, and other libraries' errors only.

    They are also kept until `send_log_to` sets another handler for them.
    """
    kept = MemoryHandler(capacity=1, flushLevel=logging.NOTSET, flushOnClose=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[CurrentStderr(), kept], force=True)
    for name in (*NOISY_LIBRARIES, *SILENT_LIBRARIES):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")  # problems with an image are reported with its name
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def set_level(name: str, *, secrets: Sequence[str]) -> None:
    """Show messages from level `name` up on stderr, with `debug` also those of other libraries; remove `secrets`."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(RedactFilter(secrets))
        if isinstance(handler, CurrentStderr):
            handler.setLevel(name.upper())
    if name == "debug":
        for library in NOISY_LIBRARIES:
            logging.getLogger(library).setLevel(logging.INFO)


def send_log_to(target: logging.Handler | None) -> None:
    """Also send every message to `target`, starting with the earlier ones; None: from now on to stderr only."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, MemoryHandler):
            handler.setTarget(target)
            handler.flush()
