"""Images to hold out from training; their validation loss shows whether the model learns or only memorizes."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


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
