"""Which variables an env file sets: it is a shell script, so a real bash reads it."""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from helpers.errors import ConfigError, Problem

READER = r"""
exec 3>"$1" 1>&2 </dev/null
__file=$2; shift 2
if [ $# -gt 0 ]; then export -n "$@"; fi
__before=" $(compgen -v | tr '\n' ' ') "
trap '[ -z "${BASH_SOURCE[0]}" ] || printf "%s\0" failed "$LINENO" "$BASH_COMMAND" >&3' ERR
set -a
source "$__file"
set +a
trap - ERR
__exported=" $(compgen -e | tr '\n' ' ') "
for __name in $(compgen -v); do
    __is_new=new; __is_exported=no
    case "$__before" in *" $__name "*) __is_new=old ;; esac
    case "$__exported" in *" $__name "*) __is_exported=exported ;; esac
    printf '%s\0' "$__is_new" "$__is_exported" "$__name" "${!__name}" >&3
done
printf '%s\0' read >&3
"""
"""Sources the file $2; writes to the file $1, between NULs, the commands that failed and every variable there is then.

The other words are names to forget the export of: `set -a` exports again those that the file sets, be it to the value
that they had. `${!name}` and `compgen` are known to the bash 3.2 that Macs have.
"""

EXPANSION_FAILED = re.compile(r"error token is|bad substitution")
"""What bash says of an impossible $((sum)) or ${name}, which it calls no failure: it goes on with the next line."""

BASH_OWN = re.compile(
    r"_|__.*|BASH.*|PWD|OLDPWD|SHLVL|PIPESTATUS|FUNCNAME|LINENO|RANDOM|SRANDOM|SECONDS|EPOCH.*"
    r"|COLUMNS|LINES|REPLY|OPTARG|OPTIND|OPTERR|IFS|PPID|DIRSTACK|GROUPS|HISTCMD|HOSTNAME"
)


class BrokenLines(ConfigError):
    """Some lines of an env file failed; the others did what they say.

    variables: what the other lines set. attempts: by name, what failed lines seem to set.
    """

    def __init__(self, problems: Sequence[Problem], *, variables: Mapping[str, str]) -> None:
        super().__init__(problems)
        self.variables = variables
        self.attempts = dict(attempt for problem in problems if (attempt := _attempt(problem.value)))


def read_env_file(path: Path, *, known: Collection[str]) -> dict[str, str]:
    """The variables that the script at `path` sets, in the environment of this process; `known` are our names.

    What its commands say is shown as they say it. Raises ConfigError, naming file and line, where the script cannot be
    read, and BrokenLines where commands of it fail.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        fix = "name an env file that is there: ENV=name reads config/name/config.env"
        raise ConfigError([Problem(option=str(path), value="", reason=error.strerror or "", fix=fix)]) from None
    cleaned = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    with tempfile.TemporaryDirectory() as folder:
        script = path.absolute()
        if cleaned != content:
            script = Path(folder) / path.name
            script.write_bytes(cleaned)
        return _source(script, path=path, known=known, answer=Path(folder) / "answer")


def _source(script: Path, *, path: Path, known: Collection[str], answer: Path) -> dict[str, str]:
    syntax = subprocess.run(["bash", "-n", script], capture_output=True, check=False)
    if syntax.returncode:
        raise ConfigError(_messages(os.fsdecode(syntax.stderr), path=path)[:1])
    forgotten = [name for name in known if name in os.environ]
    own_python = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
    environment = os.environ | own_python
    command = ["bash", "--noprofile", "--norc", "-c", READER, "bash", answer, script, *forgotten]
    output = _run(command, environment=environment, quiet=f"{script}: line ")
    words = os.fsdecode(answer.read_bytes()).split("\0")[:-1]
    failed, words = _failures(words, output=output, path=path)
    if words[-1:] != ["read"]:
        left = _problem(path, line="", value="", reason="it leaves the shell (exit)")
        raise ConfigError(failed or _messages(output, path=path) or [left])
    variables = _set_by_file(words[:-1], known=known, before=environment)
    if failed:
        raise BrokenLines(failed, variables=variables)
    return variables


def _run(command: list[str | Path], *, environment: Mapping[str, str], quiet: str) -> str:
    """Run `command`, showing what it says except for lines that start with `quiet`; all that it said."""
    said: list[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, errors="replace", text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if not line.startswith(quiet):
                sys.stderr.write(line)
    return "".join(said)


def _set_by_file(words: list[str], *, known: Collection[str], before: Mapping[str, str]) -> dict[str, str]:
    """The variables among the reader's `words` (four for each) that the file itself set."""
    found: dict[str, str] = {}
    for new, exported, name, value in zip(*[iter(words)] * 4, strict=True):
        if name in known:
            is_set = exported == "exported"
        else:
            is_set = (new == "new" or before.get(name, value) != value) and not BASH_OWN.fullmatch(name)
        if is_set:
            found[name] = value
    return found


def _failures(words: list[str], *, output: str, path: Path) -> tuple[list[Problem], list[str]]:
    """A problem for each line that failed, and the words after the reader's own about such lines."""
    said = _lines(output)
    problems = [
        _problem(path, line=line, value="", reason=reason) for line, reason in said if EXPANSION_FAILED.search(reason)
    ]
    while words[:1] == ["failed"]:
        _, line, command = words[:3]
        words = words[3:]
        reasons = [reason for number, reason in said if number == line]
        problems.append(_problem(path, line=line, value=command, reason=(reasons or ["the command failed"])[0]))
    return problems, words


def _messages(output: str, *, path: Path) -> list[Problem]:
    """A problem for each of bash's own messages."""
    return [_problem(path, line=line, value="", reason=reason) for line, reason in _lines(output)]


def _attempt(command: str) -> tuple[str, str] | None:
    """The name and the value that a command that failed seems to set, as far as that can be said without a shell."""
    found = re.fullmatch(r"(?:export\s+)?([A-Z]\w*)\s*=\s*([^$`\"'\\]*)", command)
    return (found[1], found[2]) if found else None


def _lines(output: str) -> list[tuple[str, str]]:
    return re.findall(r"^.*?: line (\d+): (.*)$", output, flags=re.MULTILINE)


def _problem(path: Path, *, line: str, value: str, reason: str) -> Problem:
    fix = "write NAME=value without spaces around the =, and with quotes around a value that has spaces"
    if attempt := _attempt(value):
        fix = f'write {attempt[0]}="{attempt[1]}", without spaces around the ='
    return Problem(option=f"{path}, line {line}" if line else str(path), value=value, reason=reason, fix=fix)


def add_line_numbers(problems: Iterable[Problem], *, path: Path) -> Iterator[Problem]:
    """The problems, those of names that the file at `path` sets with the line that last sets them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for problem in problems:
        name = problem.option.removesuffix(f" in {path}")
        number = _line_of(name, lines=lines)
        yield replace(problem, option=f"{name} in {path}, line {number}") if number else problem


def _line_of(name: str, *, lines: Sequence[str]) -> int:
    """The number of the last line that says it, from 1; 0 where none does. Words of extra arguments may be anywhere."""
    flag, _, extra = name.partition(" in ")
    word = flag.strip("'\"") if extra else name
    if not re.fullmatch(r"[A-Z]\w*", extra or name, flags=re.IGNORECASE):
        return 0
    pattern = rf"(?<![\w-]){re.escape(word)}(?!\w)" if extra else rf"(?:^|[\s;]){word}="
    for number in range(len(lines), 0, -1):
        if re.search(pattern, lines[number - 1]) and not lines[number - 1].lstrip().startswith("#"):
            return number
    return 0
