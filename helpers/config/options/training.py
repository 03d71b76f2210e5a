"""How long and how to train: the run, its optimizer, objective and checkpoints."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers.config.optimizers import FUSABLE_OPTIMIZERS, KINDS, LEARNING_RATE_FREE, OPTIMIZERS, settings_of
from helpers.config.option import MAX_BATCH, MAX_SEED, MAX_THREADS, OnResume, option

DECAYING_SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "sine")
ENDS = "the run ends there, and so does the learning rate schedule"
SCHEDULE = "the learning rate follows the new value from the next step on"
MODEL_SHIFT, AUTO_SHIFT = "model", "auto"
LR_SCHEDULES = ("constant", "constant_with_warmup", *DECAYING_SCHEDULES)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Length of the run, batch size, and output folder."""

    output_dir: str = option(
        "output/models",
        on_resume=OnResume.IGNORE,
        help="Folder for checkpoints, images and the finished weights. Relative paths in the dataset file start here.",
    )
    seed: int = option(
        42,
        env="TRAINING_SEED",
        minimum=0,
        maximum=MAX_SEED,
        on_resume=OnResume.REFUSE,
        help="Seed of every random choice in the run.",
    )
    max_train_steps: int = option(
        0,
        env="MAX_NUM_STEPS",
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=ENDS,
        help="Total number of optimizer steps. 0 if `num_train_epochs` is set.",
    )
    num_train_epochs: int = option(
        0,
        env="NUM_EPOCHS",
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=ENDS,
        help="Number of epochs; each shows every image once, plus its `repeats`. 0 if `max_train_steps` is set.",
    )
    train_batch_size: int = option(
        1,
        minimum=1,
        maximum=MAX_BATCH,
        on_resume=OnResume.REFUSE,
        help="Batch size: images in one forward pass of one process.",
    )
    gradient_accumulation_steps: int = option(
        1,
        minimum=1,
        maximum=MAX_BATCH,
        on_resume=OnResume.REFUSE,
        help="Gradient accumulation: forward passes per optimizer step.",
    )
    gradient_checkpointing: bool = option(
        True,
        env="USE_GRADIENT_CHECKPOINTING",
        on_resume=OnResume.IGNORE,
        help="Recompute activations in the backward pass. Needs less memory and is about a third slower.",
    )
    caption_dropout_probability: float = option(
        0.1,
        minimum=0.0,
        maximum=1.0,
        on_resume=OnResume.ANNOUNCE,
        help="Caption dropout: share of samples to train with the empty caption.",
    )
    force_cpu: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        effect="another device rounds differently",
        help="Train on the CPU even if there is a GPU. If not set, a GPU that the driver lists but PyTorch cannot use "
        "stops the run.",
    )
    torch_num_threads: int | None = option(
        None,
        minimum=1,
        maximum=MAX_THREADS,
        on_resume=OnResume.IGNORE,
        help="Threads that PyTorch computes with on the CPU. If not set: PyTorch's default.",
    )
    dry_run: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Show what the run would do and need, from images to memory, and stop. No model is loaded.",
    )
    next_step: str = option(
        "",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Text to show when the run is complete, such as what to do next.",
    )

    @property
    def output_folder(self) -> Path:
        """`output_dir` as a path, `~` being the home folder."""
        return Path(self.output_dir).expanduser()


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """Optimizer, learning rate schedule and gradient clipping."""

    optimizer: str = option(
        "adamw",
        choices=OPTIMIZERS,
        on_resume=OnResume.REFUSE,
        help="Optimizer. documentation/OPTIMIZERS.md helps you choose one.",
    )
    optimizer_config: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="Settings of the optimizer, a comma-separated list such as `weight_decay=0.1,beta2=0.95`. "
        "documentation/OPTIMIZERS.md lists them.",
    )
    learning_rate: float = option(
        1e-4,
        above=0.0,
        default_with=(*(("optimizer", name, 1.0) for name in LEARNING_RATE_FREE), ("model_type", "full", 1e-5)),
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        help="Peak learning rate. Optimizers that find the rate themselves multiply theirs by it.",
    )
    text_encoder_lr: float | None = option(
        None,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("train_text_encoder", (True,)),
        help="Peak learning rate of the text encoders with `train_text_encoder`. It follows the same schedule. If not "
        "set: `learning_rate`.",
    )
    lr_scheduler: str = option(
        "constant_with_warmup",
        env="LR_SCHEDULE",
        choices=LR_SCHEDULES,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        help="Learning rate schedule.",
    )
    lr_warmup_steps: int = option(
        0,
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("constant_with_warmup", *DECAYING_SCHEDULES)),
        help="Warm-up: optimizer steps in which the learning rate rises from 0.",
    )
    lr_end: float = option(
        0.0,
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", DECAYING_SCHEDULES),
        help="Lowest learning rate of the schedules that decay, at the end or in each cycle.",
    )
    lr_power: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("polynomial",)),
        help="Exponent of the `polynomial` schedule.",
    )
    lr_num_cycles: int = option(
        1,
        minimum=1,
        on_resume=OnResume.ANNOUNCE,
        effect=SCHEDULE,
        requires=("lr_scheduler", ("cosine_with_restarts", "sine")),
        help="Number of cycles of `cosine_with_restarts` and `sine`.",
    )
    max_grad_norm: float = option(
        1.0,
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        help="Maximum gradient norm; larger gradients are clipped to it. 0 turns clipping off.",
    )
    fused_backward: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Update each weight as soon as its gradient is computed, then free the gradient. With MODEL_TYPE=full this "
        "saves the memory of all gradients. Needs `max_grad_norm=0`, no gradient accumulation, one process, and one of "
        "the optimizers "
        f"{', '.join(FUSABLE_OPTIMIZERS)}.",
    )

    @property
    def settings(self) -> dict[str, Any]:
        """The optimizer's own settings, by name; `optimizer_config` must be valid."""
        return settings_of(self.optimizer, config=self.optimizer_config)

    @property
    def averages(self) -> bool:
        """Whether the resulting weights are an average that the optimizer keeps."""
        return KINDS[self.optimizer].is_schedule_free


@dataclass(frozen=True, kw_only=True)
class ObjectiveOptions:
    """Noise levels and loss."""

    timestep_sampling: str = option(
        "logit_normal",
        choices=("logit_normal", "uniform", "mode", "cosmap", "beta"),
        on_resume=OnResume.ANNOUNCE,
        help="Distribution of the noise levels, before `flow_shift`. `beta` is Beta(2, 2).",
    )
    logit_mean: float = option(
        0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("logit_normal",)),
        help="Mean of the logit-normal distribution. Above 0 trains more on noisy images.",
    )
    logit_std: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("logit_normal",)),
        help="Standard deviation of the logit-normal distribution.",
    )
    mode_scale: float = option(
        1.29,
        minimum=-1.0,
        maximum=1.75,
        on_resume=OnResume.ANNOUNCE,
        requires=("timestep_sampling", ("mode",)),
        help="Weight of middle noise levels in the `mode` distribution.",
    )
    flow_shift: float | str = option(
        1.0,
        words=(MODEL_SHIFT, AUTO_SHIFT),
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        unrecorded=MODEL_SHIFT,
        help="Shift of the noise levels. Above 1 moves them up, 1 leaves them as `timestep_sampling` samples them. `model`: "
        "the shift of the model's scheduler, 3 for SD3. `auto`: by each image's resolution, 1 at 256² to 3 at 1024² "
        "pixels. If not set, a resumed run keeps the shift of its checkpoint. See NOISE_LEVELS.md.",
    )
    loss_weighting: str = option(
        "none",
        choices=("none", "sigma_sqrt", "cosmap"),
        on_resume=OnResume.ANNOUNCE,
        help="Weight of each sample's loss, by its noise level.",
    )
    loss_type: str = option(
        "l2",
        choices=("l2", "huber", "smooth_l1"),
        on_resume=OnResume.ANNOUNCE,
        help="Loss between prediction and target: `l2` is the squared error, `huber` the pseudo-Huber loss with c = "
        "0.1, which counts outliers less, `smooth_l1` the same without its factor c, so ten times as large.",
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """When to save checkpoints, how many to keep, and which one to resume from."""

    checkpointing_steps: int = option(
        500,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Optimizer steps between two checkpoints.",
    )
    checkpoints_total_limit: int = option(
        3,
        env="CHECKPOINTING_LIMIT",
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect="checkpoints beyond the limit are deleted after the next save",
        help="Number of complete checkpoints to keep. Older ones are deleted after a newer one is complete.",
    )
    resume_from_checkpoint: str = option(
        "latest",
        env="RESUME_CHECKPOINT",
        on_resume=OnResume.IGNORE,
        effect="the run resumes from there",
        publish=False,
        help="Checkpoint to resume from: `latest`, `checkpoint-N`, a path, or `none` to start over.",
    )
