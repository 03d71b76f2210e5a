#!/usr/bin/env bash
# From the env file to a running trainer. Run `bash train.sh`, from anywhere; arguments are flags for
# train.py and override the file:
#
#   bash train.sh --max_train_steps=10      config/config.env, or the embedded demo while there is none
#   ENV=name bash train.sh                  config/name/config.env
#
# Relative paths start at this folder. Signals and the exit status are train.py's, because this becomes it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

config=config/config.env
if [ -n "${ENV:-}" ]; then
    config="config/$ENV/config.env"
elif [ ! -e "$config" ]; then
    config=config/demo/config.env
    echo "There is no config/config.env yet, so this runs the embedded demo ($config)." >&2
fi
if [ ! -f "$config" ]; then
    echo "There is no $config: write it (config/config.env.example shows how), or name another with ENV=name." >&2
    exit 1
fi

# The env file may set the environment's path; it is a shell script, and mistakes in it are reported below.
if grep -q '^[^#]*VENV_PATH=' "$config"; then
    VENV_PATH="$(set +eu; eval "$(tr -d '\r' <"$config")" >/dev/null 2>&1; printf %s "${VENV_PATH:-}")"
fi
venv="${VENV_PATH:-${VIRTUAL_ENV:-.venv}}"
if ! compgen -G "$venv/lib/python*/site-packages/diffusers/__init__.py" >/dev/null ||
    [ -e "$venv/.requirements-being-installed.txt" ]; then
    VENV_PATH="$venv" bash install/setup.sh >&2
fi

# Asked once of an environment as it is: a damaged PyTorch ends Python itself (status 139), which can report nothing.
site_packages="$(dirname "$(compgen -G "$venv/lib/python*/site-packages/diffusers" | head -n 1)")"
if [ ! "$venv/.pytorch-loads" -nt "$site_packages" ]; then
    status=0
    "$venv/bin/python" -c "import torch" || status=$?
    if [ "$status" -ne 0 ]; then
        echo "PyTorch in the environment $venv can't be imported: \`import torch\` ended with status $status$(
            [ "$status" -le 128 ] || echo ", signal $((status - 128)), which a damaged library causes")." >&2
        echo "To see which files are damaged: $venv/bin/python install/check_files.py" >&2
        echo "Fix: delete the folder $venv and run \`bash install/setup.sh\`, or what you made it with, again." >&2
        exit "$status"
    fi
    touch "$venv/.pytorch-loads" 2>/dev/null || true # a read-only environment is asked each time
fi
exec "$venv/bin/python" -m helpers.config.env.launch "$config" "$@"
