"""Sets up logging: one format for all modules, and no secrets in any line."""

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
    """Hides secrets in log records."""

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__()
        self._secrets = secrets

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage(), secrets=self._secrets), ()
        return True


def redact(text: str, *, secrets: Sequence[str]) -> str:
    """`text` with `secrets`, sorted from longest to shortest, replaced by `HIDDEN`."""
    for secret in secrets:
        text = text.replace(secret, HIDDEN)
    return text


def set_up_logging(level: int = logging.INFO) -> None:
    """Send our own messages of `level` and above to stderr, and only errors of other libraries.

    Messages are also kept in memory until `send_log_to` names a second place for them.
    """
    kept = MemoryHandler(capacity=1, flushLevel=logging.NOTSET, flushOnClose=False)
    logging.basicConfig(level=level, format="%(message)s", handlers=[CurrentStderr(), kept], force=True)
    for name in (*NOISY_LIBRARIES, *SILENT_LIBRARIES):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="PIL")  # our own messages about an image name its file
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def set_level(name: str, *, secrets: Sequence[str]) -> None:
    """Show messages of level `name` and above on stderr, at `debug` those of other libraries too, without `secrets`."""
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
