"""How long and how the model is trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config.optimizers import FUSABLE_OPTIMIZERS, KINDS, LEARNING_RATE_FREE, OPTIMIZERS, settings_of
from helpers.config.option import OnResume, option

DECAYING_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "sine")
ENDS = "the run ends there, and learning rate schedules end there"
SCHEDULE = "the learning rate follows it from the next step on"
MODEL_SHIFT, AUTO_SHIFT = "model", "auto"
LR_SCHEDULES = ("constant", "constant_with_warmup", *DECAYING_SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How long a run is, how large its steps are, and where it writes."""

    output_dir: str = option(
        "output/models",
        on_resume=OnResume.IGNORE,
        help="Where checkpoints, images and the final weights are written; relative paths in the dataset "
        "file start here.",
    )
    seed: int = option(
        42,
        env="TRAINING_SEED",
        minimum=0,
        on_resume=OnResume.REFUSE,
        help="Decides every random choice of the run.",
    )
    max_train_steps: int = option(
        0,
        env="MAX_NUM_STEPS",
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=ENDS,
        help="Optimizer steps in all; 0 where `num_train_epochs` decides.",
    )
    num_train_epochs: int = option(
        0,
        env="NUM_EPOCHS",
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=ENDS,
        help="Times every image is seen, times its repeats; 0 where `max_train_steps` decides.",
    )
    train_batch_size: int = option(
        1,
        minimum=1,
        on_resume=OnResume.REFUSE,
        help="Images in one forward pass of one process.",
    )
    gradient_accumulation_steps: int = option(
        1,
        minimum=1,
        on_resume=OnResume.REFUSE,
        help="Forward passes whose gradients make one optimizer step.",
    )
    gradient_checkpointing: bool = option(
        True,
        env="USE_GRADIENT_CHECKPOINTING",
        on_resume=OnResume.IGNORE,
        help="Compute activations again in the backward pass: less memory, about a third slower.",
    )
    caption_dropout_probability: float = option(
        0.1,
        minimum=0.0,
        maximum=1.0,
        on_resume=OnResume.ANNOUNCE,
        help="The share of samples trained with the empty caption.",
    )
    force_cpu: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        effect="another device rounds differently",
        help="Train on the processor although there is a graphics card. Without it, a card that the driver lists and "
        "PyTorch cannot use stops the run.",
    )
    torch_num_threads: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Threads of PyTorch's arithmetic on the processor; without it, PyTorch's own choice.",
    )
    dry_run: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Say what the run would do and need, from images to memory, and stop; no model is loaded.",
    )
    next_step: str = option(
        "",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="What to do next, in words that are shown when the run is complete.",
    )

    @property
    def output_folder(self) -> Path:
        """`output_dir` as a path, `~` being the home folder."""
        return Path(self.output_dir).expanduser()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Which rule moves the weights, and how far."""

    optimizer: str = option(
        "adamw",
        choices=OPTIMIZERS,
        on_resume=OnResume.REFUSE,
        help="The optimizer; documentation/OPTIMIZERS.md says which is good for what.",
    )
    optimizer_config: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="The optimizer's own settings, a comma list such as `weight_decay=0.1,beta2=0.95`; "
        "documentation/OPTIMIZERS.md lists each one's.",
    )
    learning_rate: float = option(
        1e-4,
        above=0.0,
        default_with=(*(("optimizer", name, 1.0) for name in LEARNING_RATE_FREE), ("model_type", "full", 1e-5)),
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        help="The learning rate at its highest; optimizers that find the rate themselves multiply it by this.",
    )
    text_encoder_lr: float | None = option(
        None,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("train_text_encoder", (True,)),
        help="The learning rate of text encoders that learn (`train_text_encoder`), which moves as the other does; "
        "without it, `learning_rate`.",
    )
    lr_scheduler: str = option(
        "constant_with_warmup",
        env="LR_SCHEDULE",
        choices=LR_SCHEDULES,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        help="How the learning rate moves over the run.",
    )
    lr_warmup_steps: int = option(
        0,
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("constant_with_warmup", *DECAYING_SCHEDULES)),
        help="Optimizer steps over which the learning rate rises from 0.",
    )
    lr_end: float = option(
        0.0,
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", DECAYING_SCHEDULES),
        help="The learning rate that schedules other than the constant ones end at, or swing down to.",
    )
    lr_power: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("polynomial",)),
        help="The exponent of the polynomial schedule.",
    )
    lr_num_cycles: int = option(
        1,
        minimum=1,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("cosine_with_restarts", "sine")),
        help="Cycles of `cosine_with_restarts` and `sine`.",
    )
    max_grad_norm: float = option(
        1.0,
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        help="Gradients longer than this are shortened to it; 0 leaves them as they are.",
    )
    fused_backward: bool = option(
        False,
        on_resume=OnResume.IGNORE,
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

    timestep_sampling: str = option(
        "logit_normal",
        choices=("logit_normal", "uniform", "mode", "cosmap", "beta"),
        on_resume=OnResume.ANNOUNCE,
        help="The distribution that noise levels are drawn from, before `flow_shift` moves them; `beta` is Beta(2, 2).",
    )
    logit_mean: float = option(
        0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("logit_normal",)),
        help="The mean of the logit-normal distribution; above 0 trains more on noisy images.",
    )
    logit_std: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("logit_normal",)),
        help="The spread of the logit-normal distribution.",
    )
    mode_scale: float = option(
        1.29,
        minimum=-1.0,
        maximum=1.75,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("mode",)),
        help="The `mode` distribution's weight of middle noise levels.",
    )
    flow_shift: float | str = option(
        1.0,
        words=(MODEL_SHIFT, AUTO_SHIFT),
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        unrecorded=MODEL_SHIFT,
        help="Above 1, moves the noise levels of `timestep_sampling` up; 1 leaves them as they are. `model`: by the shift "
        "of the model's scheduler (3 for SD3). `auto`: by each image's resolution, 1 at 256² to 3 at 1024² pixels. Where it "
        "is not set, a run that resumes keeps its checkpoint's; see NOISE_LEVELS.md.",
    )
    loss_weighting: str = option(
        "none",
        choices=("none", "sigma_sqrt", "cosmap"),
        on_resume=OnResume.ANNOUNCE,
        help="The weight of a sample's loss by its noise level.",
    )
    loss_type: str = option(
        "l2",
        choices=("l2", "huber", "smooth_l1"),
        on_resume=OnResume.ANNOUNCE,
        help="The distance between prediction and target: `l2` the square, `huber` the pseudo-Huber loss with "
        "c = 0.1, which counts outliers less, `smooth_l1` the same without its factor c, so ten times as large.",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When the run is saved, how many are kept, and which one is continued."""

    checkpointing_steps: int = option(
        500,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Optimizer steps between checkpoints.",
    )
    checkpoints_total_limit: int = option(
        3,
        env="CHECKPOINTING_LIMIT",
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect="older checkpoints beyond it are deleted after the next save",
        help="Complete checkpoints kept; older ones are deleted after a newer one is complete.",
    )
    resume_from_checkpoint: str = option(
        "latest",
        env="RESUME_CHECKPOINT",
        on_resume=OnResume.IGNORE,
        effect="the run resumes from there",
        publish=False,
        help="`latest`, `checkpoint-N`, a path, or `none` to start again.",
    )
