"""The settings that a memory estimate needs and the estimate itself, for every family; standard library only."""

from dataclasses import dataclass, field

from helpers.config.files.prompt_library import parse_validation_sizes
from helpers.config.options.finetune import FullOptions
from helpers.config.options.model import PrecisionOptions
from helpers.config.train_config import RunConfig

STARTS_OF_THE_BASE = ("pissa", "olora", "loftq")
"""Of `lora_init_type`: those that begin at numbers of the base's, which are taken off what is exported."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All settings that decide how much memory a run needs.

    device: `cpu`, `cuda` or `mps`. precision: with `mixed_precision` said, and `base_model_default_dtype` as the kind
    of training has it. width, height: of the largest images trained on, in pixels. t5_tokens: T5's length.
    accumulation: batches to a step. vae_batch_size: images encoded at once, on a processor by so many threads.
    validation: width and height of the largest image drawn; None where none is. guided: whether it is drawn twice
    at a time, with and without its prompt. keeps_vae: whether the VAE stays in memory while training, trains_text: both
    CLIPs, which learn. fused_backward: whether gradients are dropped one by one. lora_ranks: of layers that have one
    of their own, as `LoraOptions.ranks`. keeps_start: whether the adapter's first numbers stay beside it.
    full: what moves of a model that is trained in full. keeps_average: whether the device holds the average of it.
    """

    device: str
    precision: PrecisionOptions
    model_type: str = "lora"
    optimizer: str = "adamw"
    lora_rank: int = 16
    lora_target: str = "attention"
    lora_ranks: tuple[tuple[str, int], ...] = ()
    full: FullOptions = field(default_factory=FullOptions)
    keeps_average: bool = False
    use_dora: bool = False
    keeps_start: bool = False
    batch_size: int = 1
    accumulation: int = 1
    width: int = 1024
    height: int = 1024
    t5_tokens: int = 77
    gradient_checkpointing: bool = True
    checkpointing_interval: int = 1
    offload_blocks: int = 0
    offload_activations: bool = False
    vae_batch_size: int = 4
    validation: tuple[int, int] | None = (1024, 1024)
    guided: bool = True
    keeps_vae: bool = False
    fused_backward: bool = False
    trains_text: bool = False

    @classmethod
    def from_config(
        cls,
        config: RunConfig,
        *,
        device: str,
        precision: PrecisionOptions,
        threads: int,
        width: int,
        height: int,
        vae_batch_size: int,
    ) -> "Workload":
        """The workload of a run. threads: of PyTorch, each of which encodes an image on a CPU; for others see above."""
        lora, ema, run, speed, validation = config.lora, config.ema, config.run, config.speed, config.validation
        model_type, optimizer = config.model.model_type, config.optimizer.optimizer
        sizes = parse_validation_sizes(validation.validation_resolution) if validation.draws else ()
        return cls(
            device=device,
            precision=precision.for_training(model_type=model_type, optimizer=optimizer),
            model_type=model_type,
            optimizer=optimizer,
            lora_rank=lora.lora_rank,
            lora_target=lora.lora_target,
            lora_ranks=lora.ranks,
            full=config.full,
            keeps_average=ema.use_ema and (device == "cpu" or ema.ema_device == "accelerator"),
            use_dora=lora.use_dora,
            keeps_start=lora.lora_init_type in STARTS_OF_THE_BASE,
            batch_size=run.train_batch_size,
            accumulation=run.gradient_accumulation_steps,
            width=width,
            height=height,
            t5_tokens=config.text.tokenizer_max_length,
            gradient_checkpointing=run.gradient_checkpointing,
            checkpointing_interval=speed.gradient_checkpointing_interval,
            offload_blocks=speed.offload_blocks,
            offload_activations=speed.offload_activations,
            vae_batch_size=threads if device == "cpu" else vae_batch_size,
            validation=max(sizes, key=lambda size: size[0] * size[1], default=None),
            keeps_vae=config.cache.keep_vae_loaded,
            fused_backward=config.optimizer.fused_backward,
            trains_text=config.text.train_text_encoder,
            guided=validation.validation_guidance > 1,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingMemory:
    """What training needs at its highest, in bytes, by what it is for."""

    weights: int
    trained: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        return self.weights + self.trained + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Peaks in bytes, of the device for an accelerator and of the process for a processor.

    overhead_bytes: the libraries' own share, in each of the peaks. training: the parts of training_bytes, without it.
    """

    caching_bytes: int
    training_bytes: int
    validation_bytes: int
    overhead_bytes: int
    training: TrainingMemory

    @property
    def peak_bytes(self) -> int:
        """The most that any part of the run needs."""
        return max(self.caching_bytes, self.training_bytes, self.validation_bytes)
