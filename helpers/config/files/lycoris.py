"""The LyCORIS file: which of its algorithms sits where, read first so that a slip in it costs no hours."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.config.suggestions import did_you_mean
from helpers.errors import ConfigError, Problem

ALGORITHMS = ("lokr", "loha", "full", "lora")
ARGUMENTS = ("factor", "full_matrix", "decompose_both", "unbalanced_factorization")
KEYS = ("algo", "multiplier", "linear_dim", "linear_alpha", *ARGUMENTS, "apply_preset")
PRESET_KEYS = ("target_module", "target_name", "module_algo_map", "name_algo_map", "use_fnmatch", "exclude_name")
MAP_KEYS = ("algo", "dim", "alpha", *ARGUMENTS)
NUMBERS = ("multiplier", "linear_dim", "linear_alpha", "factor", "dim", "alpha")
EXAMPLE = "config/lycoris_config.json.example"


@dataclass(frozen=True, kw_only=True)
class LycorisConfig:
    """What the file asks for. arguments: of every layer; preset: which layers, and what is another for some."""

    algo: str
    linear_dim: int
    linear_alpha: float
    arguments: Mapping[str, Any]
    preset: Mapping[str, Any]
    said: Mapping[str, Any] = field(repr=False)

    @property
    def has_full(self) -> bool:
        """Whether full differences are asked for, of all layers or of some."""
        maps = (self.preset.get("module_algo_map", {}), self.preset.get("name_algo_map", {}))
        return "full" in (self.algo, *(said.get("algo") for each in maps for said in each.values()))

    @property
    def text(self) -> str:
        """All that was said, as one line that is the same wherever the same was said."""
        return json.dumps(self.said, sort_keys=True)


def read_lycoris(path: Path) -> tuple[LycorisConfig | None, list[Problem]]:
    """What the file asks for, or None and all that is wrong with it."""
    fix = f"name a JSON file such as {EXAMPLE}"
    try:
        said = json.loads(path.read_bytes())
    except OSError as error:
        reason = f"it cannot be read: {error.strerror}"
        return None, [Problem(option="LYCORIS_CONFIG", value=str(path), reason=reason, fix=fix)]
    except ValueError as error:
        reason = f"it is not JSON: {error}"
        return None, [Problem(option="LYCORIS_CONFIG", value=str(path), reason=reason, fix="mend it there")]
    if not isinstance(said, dict):
        reason = "it does not hold one adapter between { and }"
        return None, [Problem(option="LYCORIS_CONFIG", value=str(path), reason=reason, fix=fix)]
    problems = [*_of_file(said, file=path.name)]
    if problems:
        return None, problems
    return (
        LycorisConfig(
            algo=said["algo"],
            linear_dim=int(said.get("linear_dim", 4)),
            linear_alpha=float(said.get("linear_alpha", 1)),
            arguments={name: said[name] for name in ARGUMENTS if name in said},
            preset=said["apply_preset"],
            said=said,
        ),
        [],
    )


def needed_lycoris(path: Path) -> LycorisConfig:
    """What the file asks for; raises ConfigError where it cannot be followed, as the check of all settings tells."""
    config, problems = read_lycoris(path.expanduser())
    if config is None:
        raise ConfigError(problems)
    return config


def _of_file(said: Mapping[str, Any], *, file: str) -> Iterable[Problem]:
    yield from _group(said, keys=KEYS, where=file)
    if "algo" not in said:
        fix = f"use one of {', '.join(ALGORITHMS)}"
        yield Problem(option=f"{file}: algo", value="", reason="not set", fix=fix)
    if said.get("multiplier", 1) != 1:
        reason = "it is no part of the finished file, which would draw otherwise elsewhere"
        fix = "use 1, or leave it out, and choose linear_alpha"
        yield Problem(option=f"{file}: multiplier", value=str(said["multiplier"]), reason=reason, fix=fix)
    preset = said.get("apply_preset")
    if not isinstance(preset, dict) or not any(preset.get(key) for key in PRESET_KEYS[:4]):
        reason, fix = "nothing says which layers", 'use {"target_module": ["Attention", "FeedForward"]}'
        yield Problem(option=f"{file}: apply_preset", value="", reason=reason, fix=fix)
        return
    yield from _group(preset, keys=PRESET_KEYS, where=f"{file}: apply_preset")
    for kind in ("module_algo_map", "name_algo_map"):
        for name, arguments in preset.get(kind, {}).items():
            yield from _group(arguments, keys=MAP_KEYS, where=f"{file}: {kind}, {name}")


def _group(said: Mapping[str, Any], *, keys: tuple[str, ...], where: str) -> Iterable[Problem]:
    """What is wrong with some keys and values that stand together."""
    for key, value in said.items():
        option = f"{where}: {key}"
        if key not in keys:
            fix = did_you_mean(key, keys, otherwise=f"the keys are {', '.join(keys)}")
            yield Problem(option=option, value=str(value), reason="there is no such key", fix=fix)
        elif key == "algo" and value not in ALGORITHMS:
            fix = did_you_mean(str(value), ALGORITHMS, otherwise=f"use one of {', '.join(ALGORITHMS)}")
            yield Problem(option=option, value=str(value), reason="there is no such algorithm here", fix=fix)
        elif key in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield Problem(option=option, value=str(value), reason="it is not a number", fix="use a number")
