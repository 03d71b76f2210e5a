"""`python -m helpers.cache`: lists what the caches of a run hold and what nothing uses; `--prune` removes the latter.

It reads the env file and the datasets as `bash train.sh` does, but loads no model and needs no GPU.
"""

import sys
from collections.abc import Sequence

from helpers.config.env.launch import apply_env_file
from helpers.config.env.libraries import set_up_libraries
from helpers.config.load import load_config
from helpers.config.parse import wants_help
from helpers.config.secrets import secrets_of
from helpers.errors import UserError
from helpers.log import set_level, set_up_logging
from helpers.reporting.console.console import Console, display_for
from helpers.reporting.events import Notice
from helpers.reporting.reporter import Reporter

PRUNE = "--prune"
USAGE = """\
usage: [ENV=name] python -m helpers.cache [--prune] [flags of train.py]

Lists what each cache of the run in config/config.env (config/name/config.env) holds, and what no dataset uses any more.

  --prune   remove what is not used, while no run is using the caches
"""


def main(argv: Sequence[str]) -> int:
    """List the caches, and prune them if asked to; the exit status: 0, or 1 for what the user can fix."""
    set_up_logging()
    set_up_libraries()
    flags = [word for word in argv if word != PRUNE]
    if wants_help(flags):
        sys.stdout.write(USAGE)
        return 0
    reporter = Reporter()
    try:
        config, files = load_config(apply_env_file(flags))
        secrets = secrets_of(config)
        set_level(config.reporting.log_level, secrets=secrets)
        reporter.redact_secrets(secrets)
        reporter.add(lambda: Console(display_for(sys.stdout)))
        from helpers.training.preparation.cache_report import report_caches

        for line in report_caches(config, files, prunes=PRUNE in argv, reporter=reporter):
            reporter.handle(Notice(text=line))
    except UserError as error:
        sys.stderr.write(reporter.redact(f"{error}\n"))
        return 1
    finally:
        reporter.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
