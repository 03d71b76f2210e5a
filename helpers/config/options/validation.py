"""Which images are drawn during a run, to see what it learns."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option

IMAGES = "validation images differ for that reason too; training does not change"


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation prompt and how it is drawn."""

    validation_prompt: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="The prompt drawn before the first step, every `validation_steps`, and at the end; without it or a "
        "library of prompts, nothing is drawn.",
    )
    user_prompt_library: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="A JSON file of more prompts to draw, by name, each with settings of its own if it likes.",
    )
    validation_prompt_library: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Draw a dozen built-in prompts of many kinds, too.",
    )
    validation_disable_unconditional: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Leave out the image without a prompt, which is drawn beside a library's.",
    )
    num_validation_images: int = option(
        1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=1,
        help="Images of each prompt and size: with the seed, the next number, and so on.",
    )
    validation_negative_prompt: str = option(
        "",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        empty_means=True,
        help="What the validation images are steered away from.",
    )
    validation_guidance: float = option(
        3.0,
        minimum=0.0,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="How strongly validation images follow the prompt (classifier-free guidance); 1 or less turns it off.",
    )
    validation_steps: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Optimizer steps between validation images; without it, as `checkpointing_steps`.",
    )
    validation_epochs: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Draw validation images at the end of every so many epochs, too.",
    )
    validation_num_inference_steps: int = option(
        28,
        minimum=1,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Denoising steps of a validation image.",
    )
    validation_seed: str = option(
        "42",
        empty_means=True,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="The validation images' seed, an integer; empty for a new one each time.",
    )
    validation_resolution: str = option(
        "1024x1024",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Sizes of the validation images in pixels: `1024`, `1280x768`, or a comma list of these.",
    )
    validation_skip_layers: str = option(
        "",
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Blocks of the transformer for skip-layer guidance, a comma list of numbers from 0: `7,8,9` gives SD3.5 "
        "medium better anatomy. Costs a third prediction in the steps where it is on.",
    )
    validation_skip_layers_scale: float = option(
        2.8,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        help="How strongly images are led away from what the model draws without these blocks.",
    )
    validation_skip_layers_start: float = option(
        0.01,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        maximum=1.0,
        help="The share of the denoising steps after which skip-layer guidance begins.",
    )
    validation_skip_layers_stop: float = option(
        0.2,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        minimum=0.0,
        maximum=1.0,
        help="The share of the denoising steps at which skip-layer guidance ends.",
    )
    vae_enable_tiling: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect=IMAGES,
        help="Decode validation images in tiles of 512 pixels, which saves memory; without it, images over a "
        "megapixel in tiles of 1024, and smaller ones in tiles where the device's memory is too short.",
    )

    @property
    def skip_layers(self) -> tuple[int, ...]:
        """The blocks to skip; raises ValueError where they are no numbers."""
        return tuple(int(each) for each in self.validation_skip_layers.split(",") if each.strip())

    @property
    def draws(self) -> bool:
        """Whether there is anything to draw."""
        return bool(self.validation_prompt or self.user_prompt_library or self.validation_prompt_library)
