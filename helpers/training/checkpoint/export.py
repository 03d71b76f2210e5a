"""Exports the finished weights in the formats that other programs open."""

import logging
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from helpers.config.options.output import COMFYUI_FILE, ExportOptions
from helpers.errors import TrainingError
from helpers.files import atomic_folder, atomic_write
from helpers.models.adapters.full import PIPELINE
from helpers.models.adapters.trainable import Trainable
from helpers.models.conversions import add_comfyui_scales, loses_differences, opened_model, to_comfyui_lora
from helpers.models.family import ModelComponents, ModelFamily
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter

logger = logging.getLogger(__name__)

SINGLE_FILE = "single_file.safetensors"


def export_result(
    output_dir: Path,
    *,
    trained: Trainable,
    metadata: Mapping[str, str],
    more: ExportOptions,
    parts: ModelComponents,
    family: ModelFamily,
    reporter: Reporter,
) -> Iterator[Path]:
    """Write the final weights and the other exports that are set, replacing those of earlier runs; yields each path.

    Each is a stage of its own, as a full model takes minutes. Only for the first rank. Raises TrainingError if the disk
    is full.
    """
    result = output_dir / trained.output_name
    written = partial(_written, reporter=reporter)

    def export(path: Path) -> None:
        trained.export(path, metadata=metadata)
        if result.suffix:
            add_comfyui_scales(path, base=parts, family=family)

    yield written(result, export)
    if result.suffix and not more.export_comfyui and loses_differences(result, family=family):
        logger.warning(
            "ComfyUI does not read all of %s, as it holds full differences. Convert it to a file that ComfyUI reads: "
            "`python -m helpers.convert %s %s --to comfyui`. With export_comfyui=true the run writes that file.",
            result,
            result,
            output_dir / COMFYUI_FILE,
        )
    if more.export_comfyui:
        yield written(output_dir / COMFYUI_FILE, partial(to_comfyui_lora, result, base=parts, family=family))
    if more.export_merged or more.export_single_file:
        with opened_model(result, base=parts, family=family) as model:
            if more.export_merged:
                yield written(output_dir / PIPELINE, partial(model.write_pipeline, family=family))
            if more.export_single_file:
                yield written(output_dir / SINGLE_FILE, partial(model.write_single_file, family=family))


def _written(path: Path, write: Callable[[Path], object], *, reporter: Reporter) -> Path:
    """Replace `path`, a file or (without a suffix) a folder, with what `write` writes; returns `path`."""
    try:
        with stage(reporter, f"write {path.name}", total=1, unit="files" if path.suffix else "folders") as advance:
            if path.suffix:
                atomic_write(path, write)
            else:
                with atomic_folder(path) as folder:
                    write(folder)
            advance()
    except OSError as error:
        raise TrainingError(
            f"{path} cannot be written: {error}. Nothing is lost: the last checkpoint is complete. Free some"
            " space and run the same command again; it only repeats the export."
        ) from error
    return path
