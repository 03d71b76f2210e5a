"""Checks settings against the model's config, before anything is encoded or loaded."""

from collections.abc import Iterator
from pathlib import Path

from helpers.config.files.lycoris import needed_lycoris
from helpers.config.files.prompt_library import BUILT_IN, parse_validation_sizes, read_prompts
from helpers.config.options.validation import ValidationOptions
from helpers.config.train_config import RunConfig
from helpers.errors import ModelError, Problem
from helpers.models.adapters.lora import layer_ranks, match_modules, split_names
from helpers.models.adapters.lycoris import refuse_unknown_targets
from helpers.models.family import ModelComponents
from helpers.models.sd3.lora_targets import SETS, modules_in_set
from helpers.models.sd3.memory.architecture import Transformer, transformer_of
from helpers.models.sd3.transformer import skeleton
from helpers.models.sd3.weights.component_files import read_config

NAMES = "name layers that the model has"


def check_settings(parts: ModelComponents, config: RunConfig) -> Iterator[Problem]:
    """Every setting that does not fit the model."""
    transformer = transformer_of(read_config(parts.transformer))
    yield from _validation(config.validation, transformer=transformer, longest_edge_px=parts.longest_edge_px)
    if config.model.model_type == "full":
        yield from _modules(config, transformer)
    elif config.lora.lora_type == "lycoris":
        yield from _lycoris(config, parts)
    else:
        yield from _lora(config, transformer)


def _validation(options: ValidationOptions, *, transformer: Transformer, longest_edge_px: int) -> Iterator[Problem]:
    if not options.draws:
        return
    missing = [str(layer) for layer in options.skip_layers if not 0 <= layer < transformer.layers]
    if missing:
        reason = f"the model has no block {', '.join(missing)}: it has {transformer.layers}, counted from 0"
        fix = f"name blocks from 0 to {transformer.layers - 1}, or leave it empty"
        yield Problem(option="VALIDATION_SKIP_LAYERS", value=options.validation_skip_layers, reason=reason, fix=fix)
    fix = f"at most {longest_edge_px} a side"
    for option, text in _resolutions(options):
        for width, height in parse_validation_sizes(text):
            if max(width, height) > longest_edge_px:
                reason = f"the model has no positions for images of {width}x{height} pixels"
                yield Problem(option=option, value=text, reason=reason, fix=fix)


def _resolutions(options: ValidationOptions) -> Iterator[tuple[str, str]]:
    """The options that set image sizes, and their values."""
    yield "VALIDATION_RESOLUTION", options.validation_resolution
    prompts = dict(BUILT_IN) if options.validation_prompt_library else {}
    if options.user_prompt_library:
        path = Path(options.user_prompt_library).expanduser()
        prompts |= read_prompts(path)[0]
    for name, prompt in prompts.items():
        if prompt.resolution:
            yield f"USER_PROMPT_LIBRARY: {name}, resolution", prompt.resolution


def _modules(config: RunConfig, transformer: Transformer) -> Iterator[Problem]:
    names = [name for name, _ in transformer.weights()]
    for option in ("train_modules", "freeze_modules"):
        if wanted := split_names(getattr(config.full, option)):
            try:
                match_modules(names, wanted, option=option)
            except ModelError as error:
                yield Problem(option=option.upper(), value=", ".join(wanted), reason=str(error), fix=NAMES)


def _lora(config: RunConfig, transformer: Transformer) -> Iterator[Problem]:
    lora = config.lora
    layers = [layer.name for layer in transformer.linears()]
    try:
        if lora.lora_target in SETS:
            modules = modules_in_set(layers, lora.lora_target, layers=transformer.layers)
        else:
            modules = match_modules(layers, split_names(lora.lora_target), option="lora_target")
    except ModelError as error:
        yield Problem(option="LORA_TARGET", value=lora.lora_target, reason=str(error), fix=NAMES)
        return
    try:
        layer_ranks(modules, lora)
    except ModelError as error:
        yield Problem(option="LORA_RANKS", value=lora.lora_ranks or "", reason=str(error), fix=NAMES)


def _lycoris(config: RunConfig, parts: ModelComponents) -> Iterator[Problem]:
    path = Path(config.lora.lycoris_config or "")
    try:
        refuse_unknown_targets(skeleton(parts), needed_lycoris(path).preset)
    except ModelError as error:
        yield Problem(option="LYCORIS_CONFIG", value=str(path), reason=str(error), fix="change the name in the file")
