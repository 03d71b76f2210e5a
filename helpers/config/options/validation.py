"""Images to generate during a run, which show what it learns."""

from dataclasses import dataclass

from helpers.config.option import MAX_STEPS, OnResume, option

IMAGES = "validation images change with it; training does not change"


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """Validation images: prompts, seeds, sizes and guidance."""

    validation_prompt: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Prompt for validation images, generated before the first step, every `validation_steps`, and at the "
        "end. Without a prompt or a prompt library, none are generated.",
    )
    user_prompt_library: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="JSON file with more validation prompts, by name. Each can have settings of its own.",
    )
    validation_prompt_library: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Also generate images for a dozen built-in prompts of many kinds.",
    )
    validation_disable_unconditional: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Leave out the image without a prompt that a prompt library adds.",
    )
    num_validation_images: int = option(
        1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=1,
        maximum=1000,
        help="Images per prompt and size. The seed increases by 1 for each.",
    )
    validation_negative_prompt: str = option(
        "",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        empty_means=True,
        help="Negative prompt for validation images.",
    )
    validation_guidance: float = option(
        3.0,
        minimum=0.0,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Guidance scale of validation images (classifier-free guidance). 1 or less turns it off.",
    )
    validation_steps: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Optimizer steps between validation images. If not set: `checkpointing_steps`.",
    )
    validation_epochs: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Also generate validation images at the end of every n-th epoch.",
    )
    validation_num_inference_steps: int = option(
        28,
        minimum=1,
        maximum=MAX_STEPS,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Denoising steps per validation image.",
    )
    validation_seed: str = option(
        "42",
        empty_means=True,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Seed of the validation images, an integer. Empty for a new one each time.",
    )
    validation_resolution: str = option(
        "1024x1024",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Sizes of the validation images in pixels: `1024`, `1280x768`, or a comma-separated list.",
    )
    validation_skip_layers: str = option(
        "",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Transformer blocks for skip-layer guidance, a comma-separated list of numbers from 0: `7,8,9` gives "
        "SD3.5 medium better anatomy. Needs a third prediction in the steps where it is on.",
    )
    validation_skip_layers_scale: float = option(
        2.8,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        help="Scale of skip-layer guidance: how far images are moved away from what the model generates without these "
        "blocks.",
    )
    validation_skip_layers_start: float = option(
        0.01,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        maximum=1.0,
        help="Share of the denoising steps after which skip-layer guidance starts.",
    )
    validation_skip_layers_stop: float = option(
        0.2,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        maximum=1.0,
        help="Share of the denoising steps at which skip-layer guidance stops.",
    )
    vae_enable_tiling: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Decode validation images in tiles of 512 pixels to save memory. If not set, images over a megapixel are "
        "decoded in tiles of 1024, and smaller ones in tiles if the device runs short of memory.",
    )

    @property
    def skip_layers(self) -> tuple[int, ...]:
        """The blocks to skip; raises ValueError if they are not numbers."""
        return tuple(int(each) for each in self.validation_skip_layers.split(",") if each.strip())

    @property
    def draws(self) -> bool:
        """Whether there is any prompt to generate images for."""
        return bool(self.validation_prompt or self.user_prompt_library or self.validation_prompt_library)


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """Images that are never trained on, and when to measure the validation loss on them."""

    num_eval_images: int = option(
        0,
        minimum=0,
        on_resume=OnResume.IGNORE,
        effect="other images are held out from training",
        help="Images per dataset to hold out from training and measure the validation loss on, in addition to "
        "datasets of `dataset_type` eval. The same seed holds out the same images.",
    )
    eval_dataset_id: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="Measure the validation loss on this dataset of `dataset_type` eval only. If not set: on all of them.",
    )
    eval_steps_interval: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Optimizer steps between measurements of the validation loss. If not set: `validation_steps`.",
    )
