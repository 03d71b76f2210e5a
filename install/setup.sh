#!/usr/bin/env bash
# Makes the Python environment this repository is tested with. Run it as often as you like: when nothing
# changed it does nothing, and an interrupted run resumes where it stopped.
#
#   bash install/setup.sh        what training needs
#   bash install/setup.sh dev    and what the checks need
#
# The environment is $VENV_PATH, else the active one ($VIRTUAL_ENV), else .venv beside this repository's README.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv="${VENV_PATH:-${VIRTUAL_ENV:-.venv}}"
python="$venv/bin/python"
case "${1:-}" in
    "") lists=(requirements.txt) ;;
    dev) lists=(requirements.txt requirements-dev.txt) ;;
    *) echo "install/setup.sh: '$1' is not known; say nothing, or 'dev'." >&2; exit 2 ;;
esac

# A list that was installed completely is copied into the environment, last of all: the copy is the proof.
missing=()
for list in "${lists[@]}"; do
    cmp -s "install/$list" "$venv/.installed-$list" || missing+=("$list")
done
[ ${#missing[@]} -gt 0 ] || "$python" -c "" 2>/dev/null || missing=("${lists[@]}")
[ ${#missing[@]} -gt 0 ] || exit 0

# networkx, which PyTorch needs, can't be imported on 3.14.1: requires-python in pyproject.toml says the same.
supported='import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15) or sys.version_info[:3] == (3, 14, 1))'
usable() { # a Python of the right version that can make environments (Debian splits that off, pyenv's shims may be empty)
    "$1" -c "import venv, ensurepip; $supported" >/dev/null 2>&1
}

if ! "$python" -m pip --version >/dev/null 2>&1; then
    found=""
    for candidate in $(type -aP python3.11 python3.12 python3.13 python3.14 python3 python || true); do
        if usable "$candidate"; then found="$candidate"; break; fi
    done
    if [ -z "$found" ]; then
        echo "No Python 3.11 to 3.14 that can make environments was found on PATH." >&2
        echo "Debian 12, Ubuntu 24.04 or newer: apt install python3 python3-venv   macOS: brew install python@3.12" >&2
        echo "Anywhere, without root: install uv (https://docs.astral.sh/uv), then: uv python install 3.12" >&2
        exit 1
    fi
    echo "Making the environment $venv with $("$found" --version) ($found)"
    "$found" -m venv "$venv"
fi
if ! "$python" -c "$supported"; then
    echo "$venv has $("$python" --version 2>&1), but 3.11 to 3.14 (not 3.14.1) is needed: set VENV_PATH to another folder, or 'deactivate'." >&2
    exit 1
fi

trap 'echo "The environment is not complete. Run the same command again: it goes on where it stopped." >&2' EXIT
quiet=(--quiet)
if [ -t 1 ]; then quiet=(); fi
install() { "$python" -m pip install ${quiet[@]+"${quiet[@]}"} --no-input --disable-pip-version-check "$@"; }

# PyTorch comes first and alone: pip then takes a build that this machine was given (a CPU one, say) over the default.
# One for ROCm stays: somebody chose it.
torch="$(grep '^torch==' install/requirements.txt)"
installed="$("$python" -c 'import importlib.metadata as found; print(found.version("torch"))' 2>/dev/null || true)"
# train.sh takes this file, while it exists, as the sign of an unfinished set-up.
rest="$venv/.requirements-being-installed.txt"
if [[ "$installed" == *+rocm* ]]; then
    echo "Keeping PyTorch $installed"
elif [ "torch==${installed%%+*}" != "$torch" ]; then
    echo "Installing ${torch/==/ } (the largest part: 0.2 GB for a CPU, about 3 GB with CUDA)"
    install --constraint install/requirements.txt "$torch"
fi
for list in "${missing[@]}"; do
    grep -v -e '^torch==' -e '^-r ' "install/$list" > "$rest"
    echo "Installing $(grep -c '==' "$rest") packages of install/$list"
    install --requirement "$rest"
    cp "install/$list" "$venv/.installed-$list"
done
rm -f "$rest"
trap - EXIT
echo "The environment $venv is ready: $("$python" --version), PyTorch $("$python" -c 'import importlib.metadata as found; print(found.version("torch"))')"
