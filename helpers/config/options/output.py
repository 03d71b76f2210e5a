"""Whether, where and how a run's result is published on the Hugging Face hub."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class PublishingOptions:
    """The hub, and what the model card says."""

    push_to_hub: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Upload the finished weights with their model card to the Hugging Face hub; needs a login (`hf auth "
        "login`) and HUB_MODEL_NAME.",
    )
    push_checkpoints_to_hub: bool = option(
        False,
        env="PUSH_CHECKPOINTS",
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Upload each checkpoint, too, while the run goes on; those deleted here later stay there.",
    )
    hub_model_id: str | None = option(
        None,
        env="HUB_MODEL_NAME",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="The repository on the hub: `name`, or `owner/name` for an organization's; made where there is none.",
    )
    hub_private: bool = option(
        True,
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Whether only you see the repository; `false` publishes it for everyone.",
    )
    model_card_note: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Words of your own that the model card begins with.",
    )
