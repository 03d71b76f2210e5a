"""Which pictures are drawn during a run, to see what it learns."""

from dataclasses import dataclass

from helpers.config.declare import setting


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """The validation prompt and how it is drawn."""

    validation_prompt: str | None = setting(
        None,
        help="The prompt drawn before the first step, every `validation_steps`, and at the end; without it, "
        "nothing is drawn.",
    )
    validation_negative_prompt: str = setting(
        "", empty_means=True, help="What the validation pictures are steered away from."
    )
    validation_guidance: float = setting(
        3.0,
        minimum=0.0,
        help="How strongly validation pictures follow the prompt (classifier-free guidance); 1 or less turns it off.",
    )
    validation_steps: int | None = setting(
        None,
        minimum=1,
        help="Optimiser steps between validation pictures; without it, as `checkpointing_steps`.",
    )
    validation_num_inference_steps: int = setting(28, minimum=1, help="Denoising steps of a validation picture.")
    validation_seed: str = setting(
        "42",
        empty_means=True,
        help="The validation pictures' seed, an integer; empty for a new one each time.",
    )
    validation_resolution: str = setting(
        "1024x1024",
        help="Sizes of the validation pictures in pixels: `1024`, `1280x768`, or a comma list of these.",
    )
