"""What the header of a file of weights says of its making: of every checkpoint's, and more of what a run hands on."""

import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from helpers import __version__
from helpers.config.options.data import DataOptions
from helpers.config.options.model import TextOptions
from helpers.config.recipe import DATASETS, PROCESSES, SETTINGS, published_settings
from helpers.config.train_config import RunConfig
from helpers.models.adapters.trainable import Trainable
from helpers.models.family import FamilyFacts, ModelComponents
from helpers.models.formats.modelspec import PREFIX, modelspec
from helpers.reporting.publish.license import License, license_of
from helpers.training.checkpoint.manifest import RunInputs

LIBRARIES = ("torch", "diffusers", "transformers", "peft", "accelerate")


def provenance(parts: ModelComponents, *, trained: Trainable, text: TextOptions) -> dict[str, str]:
    """What a file's header says of its making, besides the step; free of paths on this machine.

    The prompt length matters to whoever draws with it: diffusers' own default of 256 is not what was trained. So does
    a text encoder that the model was trained without, `none` by its name in a folder of diffusers layout.
    """
    return {
        "base_model": Path(parts.name).name if Path(parts.name).expanduser().exists() else parts.name,
        "base_model_variant": parts.variant,
        "base_model_identity": parts.identity,
        **dict.fromkeys(parts.absent, "none"),
        **trained.metadata,
        "tokenizer_max_length": str(text.tokenizer_max_length),
        "sd3_t5_mask_behaviour": text.sd3_t5_mask_behaviour,
        "program": f"SimpleTuner {__version__}",
    }


def provenance_of_result(
    config: RunConfig,
    *,
    parts: ModelComponents,
    family: FamilyFacts,
    trained: Trainable,
    foundations: RunInputs,
    step: int,
    clean: Callable[[str], str],
) -> dict[str, str]:
    """All that is known of finished weights, see `provenance`, with the run's settings. clean: a text without secrets.

    Datasets are told by their fingerprints, and never by where they are.
    """
    spec = modelspec(
        architecture=family.variant_architectures.get(parts.variant, family.architecture),
        title=clean(config.run.output_folder.name),
        is_adapter=bool(Path(trained.output_name).suffix),
        made=datetime.now(UTC),
        edge_px=edge_of(config.data),
    )
    license = license_of(parts.name, folder=parts.transformer.parent, known=family.licenses)
    if license != License():
        spec |= {f"{PREFIX}license": license.name or license.identifier}
    return {
        **spec,
        **provenance(parts, trained=trained, text=config.text),
        "step": str(step),
        SETTINGS: json.dumps(published_settings(config, clean=clean)),
        DATASETS: json.dumps(dict(foundations.datasets)),
        PROCESSES: str(foundations.world_size),
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def edge_of(data: DataOptions) -> int:
    """The edge in pixels of a square of the training size, as it is cut."""
    edge = math.sqrt(data.resolution * 1e6) if data.resolution_type == "area" else data.resolution
    return data.aspect_bucket_alignment * round(edge / data.aspect_bucket_alignment)
