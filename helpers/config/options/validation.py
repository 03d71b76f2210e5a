"""Which images are drawn during a run, to see what it learns."""

from dataclasses import dataclass

from helpers.config.option import setting


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation prompt and how it is drawn."""

    validation_prompt: str | None = setting(
        None,
        help="The prompt drawn before the first step, every `validation_steps`, and at the end; without it or a "
        "library of prompts, nothing is drawn.",
    )
    user_prompt_library: str | None = setting(
        None,
        help="A JSON file of more prompts to draw, by name, each with settings of its own if it likes.",
    )
    validation_prompt_library: bool = setting(False, help="Draw a dozen built-in prompts of many kinds, too.")
    validation_disable_unconditional: bool = setting(
        False, help="Leave out the image without a prompt, which is drawn beside a library's."
    )
    num_validation_images: int = setting(
        1, minimum=1, help="Images of each prompt and size: with the seed, the next number, and so on."
    )
    validation_negative_prompt: str = setting(
        "", empty_means=True, help="What the validation images are steered away from."
    )
    validation_guidance: float = setting(
        3.0,
        minimum=0.0,
        help="How strongly validation images follow the prompt (classifier-free guidance); 1 or less turns it off.",
    )
    validation_steps: int | None = setting(
        None,
        minimum=1,
        help="Optimizer steps between validation images; without it, as `checkpointing_steps`.",
    )
    validation_epochs: int | None = setting(
        None,
        minimum=1,
        help="Draw validation images at the end of every so many epochs, too.",
    )
    validation_num_inference_steps: int = setting(28, minimum=1, help="Denoising steps of a validation image.")
    validation_seed: str = setting(
        "42",
        empty_means=True,
        help="The validation images' seed, an integer; empty for a new one each time.",
    )
    validation_resolution: str = setting(
        "1024x1024",
        help="Sizes of the validation images in pixels: `1024`, `1280x768`, or a comma list of these.",
    )
    validation_skip_layers: str = setting(
        "",
        help="Blocks of the transformer for skip-layer guidance, a comma list of numbers from 0: `7,8,9` gives SD3.5 "
        "medium better anatomy. Costs a third prediction in the steps where it is on.",
    )
    validation_skip_layers_scale: float = setting(
        2.8, minimum=0.0, help="How strongly images are led away from what the model draws without these blocks."
    )
    validation_skip_layers_start: float = setting(
        0.01, minimum=0.0, maximum=1.0, help="The share of the denoising steps after which skip-layer guidance begins."
    )
    validation_skip_layers_stop: float = setting(
        0.2, minimum=0.0, maximum=1.0, help="The share of the denoising steps at which skip-layer guidance ends."
    )
    vae_enable_tiling: bool = setting(
        False,
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
