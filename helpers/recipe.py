"""`python -m helpers.recipe FILE`: prints the env file that repeats the run which wrote these weights."""

import sys
from collections.abc import Sequence
from pathlib import Path

from helpers.config.recipe import config_env, header_of
from helpers.errors import UserError

USAGE = "usage: python -m helpers.recipe FILE > config/config.env    (a LoRA, a model as one file, or its folder)\n"


def main(argv: Sequence[str]) -> int:
    """Print the env file; the exit status: 0, 1 if the file has no settings, 2 if no file is named."""
    if len(argv) != 1 or argv[0].startswith("-"):
        sys.stderr.write(USAGE)
        return 2
    try:
        sys.stdout.write(config_env(header_of(Path(argv[0]))))
    except UserError as error:
        sys.stderr.write(f"{argv[0]}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
