"""The end of a run: hands on what was learned, and says what stands."""

import time
from pathlib import Path

from helpers.config.train_config import RunConfig
from helpers.reporting.events import RunFinished
from helpers.reporting.reporter import Reporter
from helpers.training.checkpoint.export import export_result
from helpers.training.checkpoint.provenance import provenance_of_result
from helpers.training.loop import LoopPlan
from helpers.training.preparation.prepare import PreparedRun
from helpers.training.setup import TrainingSetup, run_inputs
from helpers.training.state import TrainState


def finish(
    config: RunConfig,
    *,
    ground: PreparedRun,
    model: TrainingSetup,
    state: TrainState,
    plan: LoopPlan,
    reporter: Reporter,
) -> None:
    """Write the weights of a run that is complete, and say what stands."""
    output_dir = config.run.output_folder
    exported: list[Path] = []
    complete = state.step >= plan.total_steps
    if complete:
        with ground.runtime.gathered_weights(model.denoiser):
            if ground.runtime.rank == 0:
                exported = _exported(config, ground=ground, model=model, step=state.step, reporter=reporter)
    written = [*exported, output_dir / f"checkpoint-{state.step}"]
    if config.validation.draws:
        written.append(output_dir / "validation_images")
    reporter.handle(
        RunFinished(
            step=state.step,
            seconds=time.monotonic() - model.started,
            written=tuple(written),
            interrupted=not complete,
            next_step=config.run.next_step if complete else "",
            exported=tuple(exported),
        )
    )


def _exported(
    config: RunConfig, *, ground: PreparedRun, model: TrainingSetup, step: int, reporter: Reporter
) -> list[Path]:
    metadata = provenance_of_result(
        config,
        parts=ground.parts,
        trained=model.trained,
        foundations=run_inputs(ground),
        step=step,
        clean=reporter.redact,
    )
    with model.average.applied():
        written = export_result(
            config.run.output_folder,
            trained=model.trained,
            metadata={**metadata, **model.average.facts},
            more=config.export,
            parts=ground.parts,
            family=ground.family,
            reporter=reporter,
        )
        return list(written)
