"""Reads the variables that an env file sets. It is a shell script, so bash runs it."""

import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from helpers.config.env.lost_words import assigned_name, find_lost_words
from helpers.errors import ConfigError, Problem

READER = r"""
exec 3>{answer} 1>&2 </dev/null
{forget}
printf 'old\0%s\0' $(compgen -v) >&3
trap '[ -z "${{BASH_SOURCE[0]}}" ] || printf "%s\0" failed "$LINENO" "$BASH_COMMAND" >&3' ERR
set -T
trap {note_command} DEBUG
set -a
source {file}
set +aT
trap - DEBUG ERR
IFS=$' \t\n'
printf 'exported\0%s\0' $(compgen -e) >&3
for __name in $(compgen -v); do printf '%s\0' variable "$__name" "${{!__name}}" >&3; done
printf '%s\0' read >&3
"""
"""Sources the file and writes to `answer`, between NULs: the names of variables there were, commands that failed, every
command outside functions, and every variable there is then.

Nothing of it is visible to the file: no arguments, no variables. forget: names whose export to undo, since `set -a`
exports again those that the file sets, be it to the value that they had. `${!name}` and `compgen` are known to the bash
3.2 of macOS.
"""

NOTE_COMMAND = """\
[ "${{FUNCNAME[0]-}}${{BASH_SOURCE[0]-}}" != {file} ] || printf "%s\\0" command "$LINENO" "$BASH_COMMAND" >&3"""

EXPANSION_FAILED = re.compile(r"error token is|bad substitution")
"""bash's message for an invalid $((sum)) or ${name}, after which it continues with the next line."""

BASH_OWN = re.compile(
    r"_|__.*|BASH.*|PWD|OLDPWD|SHLVL|PIPESTATUS|FUNCNAME|LINENO|RANDOM|SRANDOM|SECONDS|EPOCH.*"
    r"|COLUMNS|LINES|REPLY|OPTARG|OPTIND|OPTERR|IFS|PPID|DIRSTACK|GROUPS|HISTCMD|HOSTNAME"
)


class BrokenLines(ConfigError):
    """Some lines of an env file failed, or lost words; the others were read.

    variables: what the other lines set. attempts: by name, what the wrong lines seem to set.
    """

    def __init__(self, problems: Sequence[Problem], *, variables: Mapping[str, str]) -> None:
        super().__init__(problems)
        self.variables = variables
        self.attempts = dict(attempt for problem in problems if (attempt := _attempt(problem.value)))


def read_env_file(path: Path, *, known: Collection[str]) -> dict[str, str]:
    """The variables that the script at `path` sets, in the environment of this process; `known` are our names.

    The output of its commands is shown. Raises ConfigError, naming file and line, if the script cannot be read, and
    BrokenLines if some of its commands fail or lose words.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        fix = "name an env file that is there: ENV=name reads config/name/config.env"
        raise ConfigError([Problem(option=str(path), value="", reason=error.strerror or "", fix=fix)]) from None
    if problem := _wrong_encoding(content, path=path):
        raise ConfigError([problem])
    cleaned = content.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    with tempfile.TemporaryDirectory() as folder:
        script = path.absolute()
        if cleaned != content:
            script = Path(folder) / path.name
            script.write_bytes(cleaned)
        return _source(script, path=path, known=known, answer=Path(folder) / "answer")


def _wrong_encoding(content: bytes, *, path: Path) -> Problem | None:
    """A problem if the file is not UTF-8 text; comments may be in any encoding."""
    fix = "save the file as UTF-8"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in content:
        return Problem(option=str(path), value="", reason="it is UTF-16 text, or not text at all", fix=fix)
    for number, line in enumerate(content.splitlines(), 1):
        try:
            line.partition(b"#")[0].decode()
        except UnicodeDecodeError:
            reason = "it is not UTF-8 text; Latin-1 perhaps"
            return Problem(option=f"{path}, line {number}", value="", reason=reason, fix=fix)
    return None


def _source(script: Path, *, path: Path, known: Collection[str], answer: Path) -> dict[str, str]:
    syntax = subprocess.run(["bash", "-n", script], capture_output=True, check=False)
    if syntax.returncode:
        raise ConfigError(_messages(os.fsdecode(syntax.stderr), path=path)[:1])
    own_python = {"PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])}
    environment = os.environ | own_python
    command = ["bash", "--noprofile", "--norc", "-c", _reader(script, known=known, answer=answer), "bash"]
    output = _run(command, environment=environment, quiet=f"{script}: line ")
    found = _Answer.parse(os.fsdecode(answer.read_bytes()).split("\0")[:-1])
    problems = _failures(found, output=output, path=path, known=known)
    if not found.is_complete:
        left = _problem(path, line="", value="", reason="it leaves the shell (exit)")
        raise ConfigError(problems or _messages(output, path=path) or [left])
    variables = _set_by_file(found, known=known, before=environment)
    if problems:
        raise BrokenLines(problems, variables=variables)
    return variables


def _reader(script: Path, *, known: Collection[str], answer: Path) -> str:
    """The script that reads `script`."""
    file, names = shlex.quote(str(script)), [name for name in known if name in os.environ]
    return READER.format(
        answer=shlex.quote(str(answer)),
        forget=f"export -n {' '.join(names)}" if names else ":",
        note_command=shlex.quote(NOTE_COMMAND.format(file=file)),
        file=file,
    )


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What the reader found. failed, commands: each with its line number. is_complete: whether it reached its end."""

    old: set[str] = field(default_factory=set)
    exported: set[str] = field(default_factory=set)
    failed: list[tuple[str, str]] = field(default_factory=list)
    commands: list[tuple[str, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    is_complete: bool = False

    @classmethod
    def parse(cls, words: list[str]) -> "_Answer":
        """From the words that the reader wrote."""
        found, left = cls(), iter(words)
        for kind in left:
            match kind:
                case "old" | "exported":
                    getattr(found, kind).add(next(left))
                case "failed":
                    found.failed.append((next(left), next(left)))
                case "command":
                    found.commands.append((next(left), next(left)))
                case "variable":
                    name, value = next(left), next(left)
                    found.variables[name] = value
                case _:
                    return replace(found, is_complete=kind == "read")
        return found


def _run(command: list[str], *, environment: Mapping[str, str], quiet: str) -> str:
    """Run `command`, showing its messages except for lines that start with `quiet`; all of its messages."""
    lines: list[str] = []
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, errors="replace", text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            lines.append(line)
            if not line.startswith(quiet):
                sys.stderr.write(line)
    return "".join(lines)


def _set_by_file(found: _Answer, *, known: Collection[str], before: Mapping[str, str]) -> dict[str, str]:
    """The variables that the file itself set."""
    set_here: dict[str, str] = {}
    for name, value in found.variables.items():
        if name in known:
            is_set = name in found.exported
        else:
            is_set = (name not in found.old or before.get(name, value) != value) and not BASH_OWN.fullmatch(name)
        if is_set:
            set_here[name] = value
    return set_here


def _failures(found: _Answer, *, output: str, path: Path, known: Collection[str]) -> list[Problem]:
    """A problem for each line that failed or lost words."""
    messages = _lines(output)
    problems = [
        _problem(path, line=line, value="", reason=reason)
        for line, reason in messages
        if EXPANSION_FAILED.search(reason)
    ]
    lost = {each: why for each in dict.fromkeys(found.commands) if (why := find_lost_words(each[1], known=known))}
    for line, command in found.failed:
        reasons = [reason for number, reason in messages if number == line]
        if (line, command) not in lost:
            problems.append(_problem(path, line=line, value=command, reason=(reasons or ["the command failed"])[0]))
    for (line, command), (reason, fix) in lost.items():
        shown = command if assigned_name(command) in known else ""  # other names may be secrets
        problems.append(Problem(option=f"{path}, line {line}", value=shown, reason=reason, fix=fix))
    return problems


def _messages(output: str, *, path: Path) -> list[Problem]:
    """A problem for each message of bash."""
    return [_problem(path, line=line, value="", reason=reason) for line, reason in _lines(output)]


def _attempt(command: str) -> tuple[str, str] | None:
    """The name and the value that a failed command seems to set, if they can be found without a shell."""
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
    """The problems; those of names that the file at `path` sets get the number of the line that last sets them."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    for problem in problems:
        name = problem.option.removesuffix(f" in {path}")
        number = _line_of(name, lines=lines)
        yield replace(problem, option=f"{name} in {path}, line {number}") if number else problem


def _line_of(name: str, *, lines: Sequence[str]) -> int:
    """The number of the last line that sets it, from 1; 0 if none does. Flags in extra arguments may be anywhere."""
    flag, _, extra = name.partition(" in ")
    word = flag.strip("'\"") if extra else name
    if not re.fullmatch(r"[A-Z]\w*", extra or name, flags=re.IGNORECASE):
        return 0
    pattern = rf"(?<![\w-]){re.escape(word)}(?!\w)" if extra else rf"(?:^|[\s;]){word}="
    for number in range(len(lines), 0, -1):
        if re.search(pattern, lines[number - 1]) and not lines[number - 1].lstrip().startswith("#"):
            return number
    return 0
