"""The default file that `accelerate config` writes for all programs: reported if it asks for something, not used.

`accelerate launch` would use it silently: a stale one starts eight processes, or ends in a traceback. The settings of
a run are in config.env; a file of accelerate's is used where ACCELERATE_EXTRA_ARGS names it with --config_file.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from helpers.config.options.launch import LaunchOptions
from helpers.errors import Problem

CONFIG_FILE = "--config_file"
EXTRA_ARGS = "ACCELERATE_EXTRA_ARGS"
PLAIN = Path(__file__).with_name("plain_accelerate.json")
"""A file without settings; accelerate reads the default one unless it is given another."""

REQUIRED = "distributed_type"
"""The only setting without which accelerate refuses a file."""

UNSET = ("", "~", "no", "none", "null", "false")
HARMLESS = {
    REQUIRED: (*UNSET, "multi_gpu", "multi_cpu"),
    "mixed_precision": (*UNSET, "bf16"),
    "use_cpu": UNSET,
    "gpu_ids": (*UNSET, "all"),
    "debug": UNSET,
}
"""The settings that would change a run, and the values that would not, in lower case."""


def default_file(environment: Mapping[str, str]) -> Path | None:
    """The file that `accelerate config` wrote, if there is one; found by huggingface_hub's rules."""
    cache = Path(environment.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"
    folder = Path(environment.get("HF_HOME", cache)).expanduser() / "accelerate"
    files = (folder / f"default_config.{ending}" for ending in ("yaml", "json"))
    return next((file for file in files if file.is_file()), None)


def named_file(extra: Sequence[str]) -> Path | None:
    """The file that arguments of accelerate name, if any."""
    for word, following in zip(extra, (*extra, "")[1:], strict=True):
        name, equals, value = word.partition("=")
        if name == CONFIG_FILE:
            return Path(value if equals else following).expanduser()
    return None


def remarks_on(launch: LaunchOptions, *, extra: Sequence[str], environment: Mapping[str, str]) -> Iterator[str]:
    """Warnings about settings in accelerate's file that have no effect; none if they agree with the run."""
    named = named_file(extra)
    if named is not None:
        precision = (_settings(named) or {}).get("mixed_precision", "no")
        if precision.lower() not in HARMLESS["mixed_precision"]:
            yield f"{named} asks for mixed_precision {precision}, which has no effect: set MIXED_PRECISION instead"
    elif (found := default_file(environment)) and (asked := _asked(found, launch)):
        yield (
            f"{found}, which `accelerate config` wrote, {asked}. It is not used: config.env has the settings of a run, "
            f"such as TRAINING_NUM_PROCESSES. Delete the file, or set {EXTRA_ARGS}={CONFIG_FILE}={found} to use it"
        )


def problems_with_named_file(extra: Sequence[str]) -> list[Problem]:
    """Why accelerate could not read the file that ACCELERATE_EXTRA_ARGS names; empty if it can."""
    named = named_file(extra)
    if named is None or _settings(named) is not None:
        return []
    reason = "it cannot be read as a file of accelerate's: it is broken" if named.is_file() else "there is no such file"
    fix = "name a file that `accelerate config` wrote, such as config/accelerate/fsdp2.yaml"
    return [Problem(option=EXTRA_ARGS, value=f"{CONFIG_FILE}={named}", reason=reason, fix=fix)]


def _asked(file: Path, launch: LaunchOptions) -> str:
    """In words, the settings of a file that differ from the run's; empty if none does."""
    settings = _settings(file)
    if settings is None:
        return "cannot be read: it is broken"
    numbers = {
        "num_processes": str(launch.training_num_processes or 1),
        "num_machines": str(launch.training_num_machines or 1),
    }
    other = [f"{name} {settings[name]}" for name, ours in numbers.items() if settings.get(name, ours) != ours]
    other += [
        f"{name} {settings[name]}"
        for name, harmless in HARMLESS.items()
        if name in settings and settings[name].lower() not in harmless
    ]
    return f"asks for {', '.join(other)}" if other else ""


def _settings(file: Path) -> dict[str, str] | None:
    """The scalars of such a file, YAML or JSON, as text; None if accelerate could not read it."""
    import yaml

    try:
        found = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except (OSError, ValueError, yaml.YAMLError):
        return None
    if not isinstance(found, dict) or REQUIRED not in found:
        return None
    return {str(name): value for name, value in found.items() if isinstance(value, str)}
