"""Which images are kept back from training, so that their loss shows what is learned and what is only remembered."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The images that are never trained on, and when their loss is measured."""

    num_eval_images: int = option(
        0,
        minimum=0,
        on_resume=OnResume.IGNORE,
        effect="other images are held out from training",
        help="Images of each dataset that are kept back from training, always the same ones for a seed; their loss "
        "is measured besides that of datasets of `dataset_type` eval.",
    )
    eval_dataset_id: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        help="The one dataset of `dataset_type` eval whose loss is measured; without it, that of all of them.",
    )
    eval_steps_interval: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Optimizer steps between measurements of the validation loss; without it, as `validation_steps`.",
    )
