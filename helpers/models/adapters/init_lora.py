"""Takes rank, alpha, target and kind from the file in INIT_LORA, unless they are set."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

from helpers.config.options.model import LoraOptions
from helpers.errors import ConfigError, ModelError, Problem
from helpers.models.adapters.lora import layer_ranks, match_modules, split_names
from helpers.models.family import AdapterLayers
from helpers.models.formats.lora import TEXT_PREFIXES, Pair, of_transformer

BLOCKS = "transformer_blocks."
MERGE = "merge it into the base with `python -m helpers.convert ... --to pipeline`, and set MODEL_NAME to the result"


def options_from_file(
    lora: LoraOptions,
    *,
    given: Collection[str],
    pairs: Mapping[str, Pair],
    layers: AdapterLayers,
    base: str,
    trains_text: bool,
) -> LoraOptions:
    """The options with the file's rank, alpha, target and kind, except for those in `given`.

    A given alpha may differ from the file's; the layers start with the file's strength in any case.
    base: the base model, for messages. Raises ConfigError with all problems.
    """
    mine = of_transformer(pairs)
    problems = [*_misfits(mine, layers=layers, base=base)]
    if not problems:
        lora = _with_places(lora, mine, given=given, layers=layers)
        problems = [*_differences(lora, mine, given=given, layers=layers)]
    problems += _of_text(pairs, lora=lora, trains_text=trains_text)
    if problems:
        value = str(lora.init_lora)
        raise ConfigError([Problem(option=option, value=value, reason=why, fix=fix) for option, why, fix in problems])
    return lora


Misfit = tuple[str, str, str]
"""The option's name in the env file, the reason, and the fix."""


def _misfits(pairs: Mapping[str, Pair], *, layers: AdapterLayers, base: str) -> Iterator[Misfit]:
    """Reasons why a file is not a LoRA for the base model, or cannot be trained further."""
    if not pairs:
        yield "INIT_LORA", "it contains no LoRA on the transformer", "name another file, or leave it out"
    for name, pair in pairs.items():
        if len(pair.shape) > 2:
            yield "INIT_LORA", f"it has a LoRA on the convolution {name}, which is not trained here", MERGE
        elif name not in layers.shapes or layers.shapes[name] != pair.shape:
            there = f"{list(layers.shapes[name])}" if name in layers.shapes else "no such layer"
            reason = f"it was trained on another model: it has {name} {list(pair.shape)}, and {base} has {there} there"
            yield "INIT_LORA", reason, "set MODEL_NAME to the model that the file was trained on"
            return
    if odd := next((name for name, pair in pairs.items() if pair.input_magnitude is not None), None):
        yield "INIT_LORA", f"it is a DoRA that normalizes inputs ({odd}), which is not trained here", MERGE
    if len({pair.is_dora for pair in pairs.values()}) > 1:
        yield "INIT_LORA", "some of its layers are DoRA and others are not, which is not trained here", MERGE


def _with_places(
    lora: LoraOptions, pairs: Mapping[str, Pair], *, given: Collection[str], layers: AdapterLayers
) -> LoraOptions:
    """The options with the file's values for those that are not given."""
    rank, _ = Counter(pair.rank for pair in pairs.values()).most_common(1)[0]
    by_rank: dict[int, list[str]] = {}
    for name, pair in pairs.items():
        by_rank.setdefault(pair.rank, []).append(name)
    odd = [(each, names) for each, names in by_rank.items() if each != rank]
    ranks = [f"{name}={each}" for each, names in odd for name in _short(names, everything=layers.shapes)]
    taken = {
        "use_dora": all(pair.is_dora for pair in pairs.values()),
        "lora_target": target_of(pairs.keys(), layers=layers),
        "lora_rank": rank,
        "lora_ranks": ",".join(ranks),
    }
    lora = replace(lora, **{name: value for name, value in taken.items() if name not in given})
    strength, _ = Counter(pair.alpha / pair.rank for pair in pairs.values()).most_common(1)[0]
    if "lora_alpha" in given or strength <= 0 or lora.use_rslora:
        return lora
    return replace(lora, lora_alpha=None if strength == 1 else strength * lora.lora_rank)


def _differences(
    lora: LoraOptions, pairs: Mapping[str, Pair], *, given: Collection[str], layers: AdapterLayers
) -> Iterator[Misfit]:
    """Given options that contradict the file."""
    try:
        target = layers.sets.get(lora.lora_target) or match_modules(
            list(layers.shapes), split_names(lora.lora_target), option="LORA_TARGET"
        )
        ranks = layer_ranks(list(layers.shapes), lora)
    except ModelError as error:
        yield "INIT_LORA", str(error), "leave LORA_TARGET and LORA_RANKS out: the file decides"
        return
    if odd := sorted(set(target) ^ pairs.keys()):
        has, lacks = ("the file", "LORA_TARGET") if odd[0] in pairs else (f"LORA_TARGET={lora.lora_target}", "the file")
        yield "INIT_LORA", f"{has} has {odd[0]}, but {lacks} does not", "leave LORA_TARGET out: the file decides"
    wrong = {name: pair.rank for name, pair in pairs.items() if ranks.get(name, lora.lora_rank) != pair.rank}
    for name, rank in [*wrong.items()][:1]:
        reason = f"its rank is {rank} at {name}, but the settings ask for {ranks.get(name, lora.lora_rank)}"
        yield "INIT_LORA", reason, "leave LORA_RANK and LORA_RANKS out: the file decides"
    is_dora = all(pair.is_dora for pair in pairs.values())
    if "use_dora" in given and lora.use_dora != is_dora:
        reason = f"it is {'a' if is_dora else 'not a'} DoRA, but USE_DORA={str(lora.use_dora).lower()}"
        yield "INIT_LORA", reason, "leave USE_DORA out: the file decides"


def _of_text(pairs: Mapping[str, Pair], *, lora: LoraOptions, trains_text: bool) -> Iterator[Misfit]:
    """Problems with the file's LoRA on text encoders."""
    text = {name: pair for name, pair in pairs.items() if name.startswith(TEXT_PREFIXES)}
    if text and not trains_text:
        reason = "it also has a LoRA on the text encoders, which would be lost"
        yield "INIT_LORA", reason, "set TRAIN_TEXT_ENCODER=true, or name a file without one"
        return
    for name, pair in text.items():
        if pair.is_dora or len(pair.shape) > 2:
            yield "INIT_LORA", f"its LoRA on {name} is not a plain LoRA, the only kind that is trained there", MERGE
            return
        if pair.rank != lora.lora_rank:
            reason = f"its rank is {pair.rank} at {name} and {lora.lora_rank} on the transformer; they must be equal"
            yield "INIT_LORA", reason, MERGE
            return


def target_of(names: Collection[str], *, layers: AdapterLayers) -> str:
    """The shortest `lora_target` that selects exactly these layers."""
    wanted = set(names)
    word = next((word for word, meant in layers.sets.items() if set(meant) == wanted), None)
    return word or ",".join(_short(names, everything=layers.shapes))


def _short(names: Collection[str], *, everything: Collection[str]) -> list[str]:
    """Names for exactly these layers: without block numbers if all blocks have them, else one by one."""
    ends = list(dict.fromkeys(_without_block(name) for name in names))
    meant = match_modules(list(everything), ends, option="lora_target")
    return ends if set(meant) == set(names) else list(names)


def _without_block(name: str) -> str:
    return name.removeprefix(BLOCKS).partition(".")[2] if name.startswith(BLOCKS) else name
