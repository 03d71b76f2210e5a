#!/usr/bin/env bash
# Makes the environment and runs every check that needs no GPU: behavior, layers, lint, types, sizes.
#
#   bash tests/run.sh                        everything
#   bash tests/run.sh tests/unit/config -q   pytest's own arguments, for a part
#
# Two processes share the test files; `-n 0`, said last, is for looking into one test.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash install/setup.sh dev
venv="${VENV_PATH:-${VIRTUAL_ENV:-.venv}}"
exec "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@"
