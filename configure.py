"""Asks for the settings of a run and writes config/config.env and the dataset file: python configure.py

ENV=name python configure.py writes config/name/config.env instead, as ENV=name bash train.sh reads it. Without a
terminal it reads one answer per line (see helpers/config/wizard/plain.py).
"""

import os
import sys
from functools import cache

NO_ENVIRONMENT = """\
This Python has no {name}. Make the environment, and start it from there:

    bash install/setup.sh
    .venv/bin/python configure.py"""


def main() -> int:
    """Start the wizard with the functions of the program that it uses; its exit status."""
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    try:
        from helpers.config.env.gpus import find_gpus
        from helpers.config.wizard import main as wizard
        from helpers.config.wizard.machine import SystemInfo, log_in
        from helpers.data.report.preview import preview_folder
        from helpers.models.hub import is_logged_in
        from helpers.models.sd3.memory.forecast import forecast
    except ModuleNotFoundError as error:
        print(NO_ENVIRONMENT.format(name=error.name), file=sys.stderr)
        return 1
    machine = SystemInfo(
        gpus=find_gpus(),
        is_mac=sys.platform == "darwin",
        look_at=cache(preview_folder),
        memory=forecast,
        logged_in=is_logged_in,
        log_in=log_in if sys.stdin.isatty() else None,
    )
    return wizard.main(machine)


if __name__ == "__main__":
    sys.exit(main())
