"""How `train.sh` starts the trainer: settings of the env file that are not flags of `train.py`."""

from dataclasses import dataclass

from helpers.config.option import MAX_BATCH, OnResume, option


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Processes, machines, and arguments to pass on."""

    training_num_processes: int | None = option(
        None,
        on_resume=OnResume.IGNORE,
        minimum=1,
        maximum=MAX_BATCH,
        help="Total number of processes, one per GPU. If not set: the number in the file named in "
        "`accelerate_extra_args`, else 1.",
    )
    training_num_machines: int | None = option(
        None,
        on_resume=OnResume.IGNORE,
        minimum=1,
        maximum=MAX_BATCH,
        help="Number of machines. If not set: the number in the file named in `accelerate_extra_args`, else 1.",
    )
    accelerate_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More arguments for `accelerate launch`.",
    )
    trainer_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More flags for `train.py`. They override the other settings in `config.env`.",
    )
    debug_extra_args: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="More flags for `train.py`. TRAINER_EXTRA_ARGS overrides them.",
    )
    venv_path: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="Python environment. If not set: the active one, else `.venv`.",
    )
