"""Opens every header and config that a run needs before anything is encoded, and reports all problems at once."""

from collections.abc import Iterator
from pathlib import Path

from helpers.config.options.model import ModelOptions
from helpers.config.train_config import RunConfig
from helpers.errors import BrokenModelError, ConfigError, ModelError, Problem
from helpers.models.family import ModelComponents, ModelFamily
from helpers.models.formats.header import BrokenFileError, read_header
from helpers.training.checkpoint.checkpoint import NAME
from helpers.wrong_files import is_lfs_pointer

RESUME = "RESUME_CHECKPOINT"
TENSORS = "*.safetensors"


def checked_parts(config: RunConfig, *, family: ModelFamily) -> ModelComponents:
    """The model's components, after every file and setting that depends on the model has been checked.

    Raises ConfigError with all problems. Nothing is downloaded if a local file is already broken. Problems of the
    download itself (its id, the license, the network) raise ModelError.
    """
    problems = [*_broken_files(config)]
    if problems and not _is_here(config.model):
        raise ConfigError(problems)
    try:
        parts = family.locate(config.model)
    except BrokenModelError as error:
        raise ConfigError([*error.problems, *problems]) from error
    except BrokenFileError as error:
        raise ConfigError([error.problem("MODEL_NAME"), *problems]) from error
    except ModelError as error:
        if not problems:
            raise
        name = config.model.pretrained_model_name_or_path
        fix = "fix the model as well"
        raise ConfigError([Problem(option="MODEL_NAME", value=name, reason=str(error), fix=fix), *problems]) from error
    if found := [*problems, *family.check_settings(parts, config)]:
        raise ConfigError(found)
    return parts


def _is_here(model: ModelOptions) -> bool:
    """Whether all files of the model are on this machine."""
    names = (
        model.pretrained_model_name_or_path,
        model.pretrained_parts_model_name_or_path,
        model.pretrained_vae_model_name_or_path,
        model.pretrained_clip_l_model_name_or_path,
        model.pretrained_clip_g_model_name_or_path,
        None if model.without_t5 else model.pretrained_t5_model_name_or_path,
    )
    return all(Path(name).expanduser().exists() for name in names if name)


def _broken_files(config: RunConfig) -> Iterator[Problem]:
    """Broken files that can be found without the model: of INIT_LORA and of the checkpoint to resume from."""
    if config.lora.init_lora:
        yield from _broken(Path(config.lora.init_lora).expanduser(), option="INIT_LORA")
    resume, output_dir = config.checkpoint.resume_from_checkpoint, config.run.output_folder
    if resume == "latest":
        # Incomplete checkpoints are skipped anyway; with a git-lfs pointer, the checkpoint was complete at its origin.
        for folder in sorted(output_dir.glob("checkpoint-*")):
            for file in sorted(folder.glob(TENSORS)) if NAME.fullmatch(folder.name) else ():
                if is_lfs_pointer(file):
                    yield from _broken(file, option=RESUME)
    elif resume != "none":
        named = output_dir / resume if NAME.fullmatch(resume) else Path(resume).expanduser()
        for file in sorted(named.glob(TENSORS)):
            yield from _broken(file, option=RESUME)


def _broken(file: Path, *, option: str) -> Iterator[Problem]:
    try:
        read_header(file)
    except BrokenFileError as error:
        yield error.problem(option)
