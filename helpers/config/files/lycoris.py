"""The LyCORIS file: the algorithms and their layers, checked before anything is loaded."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helpers.config.files.json_file import WrongJson, read_json
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
    """The settings in the file. arguments: of every layer; preset: the layers, and other settings for some of them."""

    algo: str
    linear_dim: int
    linear_alpha: float
    arguments: Mapping[str, Any]
    preset: Mapping[str, Any]
    content: Mapping[str, Any] = field(repr=False)

    @property
    def has_full(self) -> bool:
        """Whether some or all layers use the algorithm `full`."""
        maps = (self.preset.get("module_algo_map", {}), self.preset.get("name_algo_map", {}))
        return "full" in (self.algo, *(content.get("algo") for each in maps for content in each.values()))

    @property
    def text(self) -> str:
        """The content as one line, equal for equal content."""
        return json.dumps(self.content, sort_keys=True)


def read_lycoris(path: Path) -> tuple[LycorisConfig | None, list[Problem]]:
    """The settings in the file, or None and every problem."""
    fix = f"name a JSON file such as {EXAMPLE}"
    try:
        content = read_json(path, example=EXAMPLE)
    except WrongJson as wrong:
        return None, [wrong.problem("LYCORIS_CONFIG", value=str(path))]
    if not isinstance(content, dict):
        reason = "it does not hold one adapter between { and }"
        return None, [Problem(option="LYCORIS_CONFIG", value=str(path), reason=reason, fix=fix)]
    problems = [*_of_file(content, file=path.name)]
    if problems:
        return None, problems
    return (
        LycorisConfig(
            algo=content["algo"],
            linear_dim=int(content.get("linear_dim", 4)),
            linear_alpha=float(content.get("linear_alpha", 1)),
            arguments={name: content[name] for name in ARGUMENTS if name in content},
            preset=content["apply_preset"],
            content=content,
        ),
        [],
    )


def needed_lycoris(path: Path) -> LycorisConfig:
    """The settings in the file; raises ConfigError with every problem."""
    config, problems = read_lycoris(path.expanduser())
    if config is None:
        raise ConfigError(problems)
    return config


def _of_file(content: Mapping[str, Any], *, file: str) -> Iterable[Problem]:
    yield from _group(content, keys=KEYS, where=file)
    if "algo" not in content:
        fix = f"use one of {', '.join(ALGORITHMS)}"
        yield Problem(option=f"{file}: algo", value="", reason="not set", fix=fix)
    if content.get("multiplier", 1) != 1:
        reason = "it is not saved in the LoRA file, so other programs would generate different images"
        fix = "use 1, or remove it, and set linear_alpha"
        yield Problem(option=f"{file}: multiplier", value=str(content["multiplier"]), reason=reason, fix=fix)
    preset = content.get("apply_preset")
    if not isinstance(preset, dict) or not any(preset.get(key) for key in PRESET_KEYS[:4]):
        reason, fix = "the layers are not set", 'use {"target_module": ["Attention", "FeedForward"]}'
        yield Problem(option=f"{file}: apply_preset", value="", reason=reason, fix=fix)
        return
    yield from _group(preset, keys=PRESET_KEYS, where=f"{file}: apply_preset")
    for kind in ("module_algo_map", "name_algo_map"):
        layers = preset.get(kind, {})
        if not isinstance(layers, dict) or not all(isinstance(each, dict) for each in layers.values()):
            fix = 'use { "Attention": { "algo": "lokr" } }'
            yield Problem(option=f"{file}: {kind}", value="", reason="it is not an object of objects", fix=fix)
            continue
        for name, arguments in layers.items():
            yield from _group(arguments, keys=MAP_KEYS, where=f"{file}: {kind}, {name}")


def _group(content: Mapping[str, Any], *, keys: tuple[str, ...], where: str) -> Iterable[Problem]:
    """Every problem with the keys and values of one object."""
    for key, value in content.items():
        option = f"{where}: {key}"
        if key not in keys:
            fix = did_you_mean(key, keys, otherwise=f"the keys are {', '.join(keys)}")
            yield Problem(option=option, value=str(value), reason="there is no such key", fix=fix)
        elif key == "algo" and value not in ALGORITHMS:
            fix = did_you_mean(str(value), ALGORITHMS, otherwise=f"use one of {', '.join(ALGORITHMS)}")
            yield Problem(option=option, value=str(value), reason="not a supported algorithm", fix=fix)
        elif key in NUMBERS and (isinstance(value, bool) or not isinstance(value, int | float)):
            yield Problem(option=option, value=str(value), reason="it is not a number", fix="use a number")
