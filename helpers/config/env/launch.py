"""From an env file to a running `train.py`: the program that `train.sh` starts."""

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from helpers.config.env.accelerate_file import CONFIG_FILE, PLAIN, default_file, named_file, remarks_on
from helpers.config.env.env_file import BrokenLines, add_line_numbers, read_env_file
from helpers.config.env.translate import Translation, env_names, translate
from helpers.config.options.launch import LaunchOptions
from helpers.config.parse import wants_help
from helpers.errors import ConfigError, Problem, UserError

TRAINER = "train.py"
DEMO = Path("config/demo/config.env")
SEVERAL = "helpers.config.env.supervise"


def main(arguments: Sequence[str]) -> int:
    """Run the trainer with `arguments`: an env file, then flags. Returns 1 if something is wrong with them."""
    try:
        translation = translated(Path(arguments[0]), flags=arguments[1:])
        environment = {**os.environ, **translation.exports}
        extra = shlex.split(translation.launch.accelerate_extra_args)
        remarks = remarks_on(translation.launch, extra=extra, environment=environment)
        sys.stderr.writelines(f"{line}\n" for line in (*translation.remarks, *remarks))
        exec_trainer(translation, environment=environment)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1


def translated(path: Path, *, flags: Sequence[str]) -> Translation:
    """The env file at `path` and `flags`, translated. Raises ConfigError with every problem."""
    if wants_help(flags):
        return Translation(arguments=("--help",))
    broken: tuple[Problem, ...] = ()
    attempts: dict[str, str] = {}
    try:
        variables = read_env_file(path, known=env_names())
    except BrokenLines as error:
        variables, broken, attempts = error.variables, error.problems, error.attempts
    translation = translate(variables, file=str(path), arguments=flags, attempts=attempts)
    if broken or translation.problems:
        # Read here only to report every problem at once; the trainer reads it again.
        from helpers.config.load import files_of

        numbered = add_line_numbers(translation.problems, path=path)
        raise ConfigError([*broken, *numbered, *files_of(translation.reading)[1]])
    return translation


def apply_env_file(flags: Sequence[str]) -> tuple[str, ...]:
    """The arguments of `train.py` that the env file, which ENV names, and `flags` come to, for a command beside it.

    Other variables of the env file go into this process's environment. Raises ConfigError with everything wrong.
    """
    name = os.environ.get("ENV", "")
    path = Path("config", name, "config.env")
    translation = translated(path if name or path.exists() else DEMO, flags=flags)
    os.environ.update(translation.exports)
    return translation.arguments


def exec_trainer(translation: Translation, *, environment: Mapping[str, str]) -> NoReturn:
    """Replace this process with the trainer, so that signals reach it and its exit status is ours."""
    command = [sys.executable, *command_line(translation, environment=environment)]
    sys.stderr.flush()
    os.execve(command[0], command, environment)


def command_line(translation: Translation, *, environment: Mapping[str, str]) -> list[str]:
    """The arguments of `python`: the trainer itself for one process, else accelerate's launcher.

    `accelerate launch` is a process of its own and imports torch once more, which costs seconds.
    """
    launch = translation.launch
    extra = shlex.split(launch.accelerate_extra_args)
    alone = (launch.training_num_processes or 1) == (launch.training_num_machines or 1) == 1
    if alone and not extra:
        return [TRAINER, *translation.arguments]
    flags = _accelerate_flags(launch, extra=extra, environment=environment)
    return ["-m", SEVERAL, *flags, *extra, TRAINER, *translation.arguments]


def _accelerate_flags(launch: LaunchOptions, *, extra: Sequence[str], environment: Mapping[str, str]) -> list[str]:
    """The flags of accelerate: those that our env file sets and, without a file of accelerate's, all that it needs.

    `--multi_gpu` means several processes, on GPUs or not. Mixed precision is set by the trainer.
    """
    by_file = named_file(extra) is not None
    numbers = {"--num_processes": launch.training_num_processes, "--num_machines": launch.training_num_machines}
    flags = [f"{name}={number or 1}" for name, number in numbers.items() if number or not by_file]
    flags.append("--mixed_precision=no")
    if by_file:
        return flags
    several = (launch.training_num_processes or 1) > 1
    engines = ("--multi_gpu", "--cpu", "--tpu", "--use_deepspeed", "--use_fsdp", "--num_processes")
    if several and not any(word.startswith(engines) for word in extra):
        flags.append("--multi_gpu")
    plain = [f"{CONFIG_FILE}={PLAIN}"] if default_file(environment) else []
    return [*flags, "--dynamo_backend=no", *plain]


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
