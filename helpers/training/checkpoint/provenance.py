"""The provenance in the headers of weight files: for every checkpoint, and more for the result of a run."""

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


def provenance(parts: ModelComponents, *, family: FamilyFacts, trained: Trainable, text: TextOptions) -> dict[str, str]:
    """The header's provenance besides the step, without paths on this machine.

    The prompt length matters for inference: diffusers' default of 256 is not what was trained. So does a text encoder
    that the model was trained without: `none`, under its folder name in the diffusers layout.
    """
    return {
        "base_model": Path(parts.name).name if Path(parts.name).expanduser().exists() else parts.name,
        "base_model_variant": parts.variant,
        "base_model_identity": parts.identity,
        **dict.fromkeys(parts.absent, "none"),
        **trained.metadata,
        **{name: str(getattr(text, name)) for name in family.text_options},
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
    """The full provenance of finished weights: `provenance` and the run's settings.

    clean: removes secrets from a text. Datasets are given by their fingerprints, never by their location.
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
        **provenance(parts, family=family, trained=trained, text=config.text),
        "step": str(step),
        SETTINGS: json.dumps(published_settings(config, clean=clean)),
        DATASETS: json.dumps(dict(foundations.datasets)),
        PROCESSES: str(foundations.world_size),
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
    }


def edge_of(data: DataOptions) -> int:
    """The edge in pixels of a square training image after cropping."""
    edge = math.sqrt(data.resolution * 1e6) if data.resolution_type == "area" else data.resolution
    return data.aspect_bucket_alignment * round(edge / data.aspect_bucket_alignment)
