"""How long and how the model is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config.optimizers import FINDING_THEIR_RATE, FUSABLE_OPTIMIZERS, KINDS, OPTIMIZERS, settings_of
from helpers.config.option import setting

LR_SCHEDULES = ("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial", "sine")


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How long a run is, how large its steps are, and where it writes."""

    output_dir: str = setting(
        "output/models",
        help="Where checkpoints, images and the final weights are written; relative paths in the dataset "
        "file start here.",
    )
    seed: int = setting(42, env="TRAINING_SEED", minimum=0, help="Decides every random choice of the run.")
    max_train_steps: int = setting(
        0,
        env="MAX_NUM_STEPS",
        minimum=0,
        help="Optimizer steps in all; 0 where `num_train_epochs` decides.",
    )
    num_train_epochs: int = setting(
        0,
        env="NUM_EPOCHS",
        minimum=0,
        help="Times every image is seen, times its repeats; 0 where `max_train_steps` decides.",
    )
    train_batch_size: int = setting(1, minimum=1, help="Images in one forward pass of one process.")
    gradient_accumulation_steps: int = setting(
        1,
        minimum=1,
        help="Forward passes whose gradients make one optimizer step.",
    )
    gradient_checkpointing: bool = setting(
        True,
        env="USE_GRADIENT_CHECKPOINTING",
        help="Compute activations again in the backward pass: less memory, about a third slower.",
    )
    caption_dropout_probability: float = setting(
        0.1,
        minimum=0.0,
        maximum=1.0,
        help="The share of samples trained with the empty caption.",
    )
    force_cpu: bool = setting(
        False,
        help="Train on the processor although there is a graphics card. Without it, a card that the driver lists and "
        "PyTorch cannot use stops the run.",
    )
    torch_num_threads: int | None = setting(
        None,
        minimum=1,
        help="Threads of PyTorch's arithmetic on the processor; without it, PyTorch's own choice.",
    )
    dry_run: bool = setting(
        False, help="Say what the run would do and need, from images to memory, and stop; no model is loaded."
    )
    next_step: str = setting("", help="What to do next, in words that are shown when the run is complete.")

    @property
    def output_folder(self) -> Path:
        """`output_dir` as a path, `~` being the home folder."""
        return Path(self.output_dir).expanduser()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Which rule moves the weights, and how far."""

    optimizer: str = setting(
        "adamw",
        choices=OPTIMIZERS,
        help="The optimizer; documentation/OPTIMIZERS.md says which is good for what.",
    )
    optimizer_config: str = setting(
        "",
        help="The optimizer's own settings, a comma list such as `weight_decay=0.1,beta2=0.95`; "
        "documentation/OPTIMIZERS.md lists each one's.",
    )
    learning_rate: float = setting(
        1e-4,
        above=0.0,
        default_with=(*(("optimizer", name, 1.0) for name in FINDING_THEIR_RATE), ("model_type", "full", 1e-5)),
        help="The learning rate at its highest; optimizers that find the rate themselves multiply it by this.",
    )
    text_encoder_lr: float | None = setting(
        None,
        above=0.0,
        help="The learning rate of text encoders that learn (`train_text_encoder`), which moves as the other does; "
        "without it, `learning_rate`.",
    )
    lr_scheduler: str = setting(
        "constant_with_warmup",
        env="LR_SCHEDULE",
        choices=LR_SCHEDULES,
        help="How the learning rate moves over the run.",
    )
    lr_warmup_steps: int = setting(0, minimum=0, help="Optimizer steps over which the learning rate rises from 0.")
    lr_end: float = setting(
        0.0,
        minimum=0.0,
        help="The learning rate that schedules other than the constant ones end at, or swing down to.",
    )
    lr_power: float = setting(1.0, above=0.0, help="The exponent of the polynomial schedule.")
    lr_num_cycles: int = setting(1, minimum=1, help="Cycles of `cosine_with_restarts` and `sine`.")
    max_grad_norm: float = setting(
        1.0,
        minimum=0.0,
        help="Gradients longer than this are shortened to it; 0 leaves them as they are.",
    )
    fused_backward: bool = setting(
        False,
        help="Move each weight as soon as its gradient is there and drop the gradient: with MODEL_TYPE=full the memory "
        "of all gradients is saved. Needs `max_grad_norm=0`, no accumulation, one process, and one of the optimizers "
        f"{', '.join(FUSABLE_OPTIMIZERS)}.",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The optimizer's own settings, by name; `optimizer_config` is known to be without mistakes."""
        return settings_of(self.optimizer, config=self.optimizer_config)

    @property
    def averages(self) -> bool:
        """Whether the weights to hand on are an average that the optimizer keeps."""
        return KINDS[self.optimizer].averages


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """What the model is asked to predict, at which noise levels, and how errors are weighed."""

    timestep_sampling: str = setting(
        "logit_normal",
        choices=("logit_normal", "uniform", "mode", "cosmap", "beta"),
        help="The distribution that noise levels are drawn from; `beta` is Beta(2, 2), before the shift.",
    )
    logit_mean: float = setting(
        0.0,
        help="The mean of the logit-normal distribution; above 0 trains more on noisy images.",
    )
    logit_std: float = setting(1.0, above=0.0, help="The spread of the logit-normal distribution.")
    mode_scale: float = setting(
        1.29,
        minimum=-1.0,
        maximum=1.75,
        help="The `mode` distribution's weight of middle noise levels.",
    )
    flow_shift: float | None = setting(
        None,
        above=0.0,
        help="Moves noise levels up, for large images; without it, the model's own scheduler's shift.",
    )
    loss_weighting: str = setting(
        "none",
        choices=("none", "sigma_sqrt", "cosmap"),
        help="The weight of a sample's loss by its noise level.",
    )
    loss_type: str = setting(
        "l2",
        choices=("l2", "huber", "smooth_l1"),
        help="The distance between prediction and target: `l2` the square, `huber` the pseudo-Huber loss with "
        "c = 0.1, which counts outliers less, `smooth_l1` the same without its factor c, so ten times as large.",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When the run is saved, how many are kept, and which one is continued."""

    checkpointing_steps: int = setting(500, minimum=1, help="Optimizer steps between checkpoints.")
    checkpoints_total_limit: int = setting(
        3,
        env="CHECKPOINTING_LIMIT",
        minimum=1,
        help="Complete checkpoints kept; older ones are deleted after a newer one is complete.",
    )
    resume_from_checkpoint: str = setting(
        "latest",
        env="RESUME_CHECKPOINT",
        help="`latest`, `checkpoint-N`, a path, or `none` to start again.",
    )
