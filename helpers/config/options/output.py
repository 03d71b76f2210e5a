"""Whether, where and how to publish the result of a run on the Hugging Face hub."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class PublishingOptions:
    """Upload to the Hugging Face hub, and the model card."""

    push_to_hub: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Upload the finished weights and their model card to the Hugging Face hub. Needs a login (`hf auth "
        "login`) and HUB_MODEL_NAME.",
    )
    push_checkpoints_to_hub: bool = option(
        False,
        env="PUSH_CHECKPOINTS",
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Also upload each checkpoint during training. Checkpoints that are deleted locally stay on the hub.",
    )
    hub_model_id: str | None = option(
        None,
        env="HUB_MODEL_NAME",
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Repository on the hub: `name`, or `owner/name` for an organization. Created if it does not exist.",
    )
    hub_private: bool = option(
        True,
        on_resume=OnResume.IGNORE,
        requires=("push_to_hub", (True,)),
        publish=False,
        help="Keep the repository private. `false` makes it public.",
    )
    model_card_note: str | None = option(
        None,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Text to put at the start of the model card.",
    )
