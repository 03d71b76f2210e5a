"""One set-up of logging, so that every module's logger speaks in the same way."""

import logging
import warnings

NOISY_LIBRARIES = ("torchao", "torch.utils._pytree", "diffusers", "transformers", "accelerate", "peft", "PIL", "httpx")


def set_up_logging(level: int = logging.INFO) -> None:
    """Send our own messages of `level` and above to stderr, and other libraries' errors only."""
    logging.basicConfig(level=level, format="%(message)s", force=True)
    for name in NOISY_LIBRARIES:
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
