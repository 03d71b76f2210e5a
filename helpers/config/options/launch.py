"""How `train.sh` starts the trainer: settings of the env file that are no flags of `train.py`."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Processes, machines, and words that are handed on."""

    training_num_processes: int | None = option(
        None,
        on_resume=OnResume.IGNORE,
        minimum=1,
        help="Processes in all, one per GPU; without it, 1, or what the file named in `accelerate_extra_args` has.",
    )
    training_num_machines: int | None = option(
        None,
        on_resume=OnResume.IGNORE,
        minimum=1,
        help="Machines that train together; without it, 1, or what the file named in `accelerate_extra_args` has.",
    )
    accelerate_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More words for `accelerate launch`.",
    )
    trainer_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More flags for `train.py`, which win over the names of this file.",
    )
    debug_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More flags for `train.py`; TRAINER_EXTRA_ARGS wins over them.",
    )
    venv_path: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="The Python environment; without it, the active one, else `.venv`.",
    )
