"""How `train.sh` starts the trainer: settings of the env file that are no flags of `train.py`."""

from dataclasses import dataclass

from helpers.config.declare import setting


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Processes, machines, and words that are handed on."""

    training_num_processes: int = setting(1, minimum=1, help="Processes on this machine, one per GPU.")
    training_num_machines: int = setting(1, minimum=1, help="Machines that train together.")
    training_dynamo_backend: str = setting(
        "no",
        choices=("no", "eager", "aot_eager", "inductor", "cudagraphs"),
        help="How the model is compiled: `inductor`, or `no` for not at all.",
    )
    accelerate_extra_args: str = setting("", help="More words for `accelerate launch`.")
    trainer_extra_args: str = setting("", help="More flags for `train.py`, which win over the names of this file.")
    debug_extra_args: str = setting("", help="More flags for `train.py`; TRAINER_EXTRA_ARGS wins over them.")
    venv_path: str = setting("", help="The Python environment; without it, the active one, else `.venv`.")
