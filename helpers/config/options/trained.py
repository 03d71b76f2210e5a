"""What of the model is trained where the whole of it could be."""

from dataclasses import dataclass

from helpers.config.declare import setting


@dataclass(frozen=True, kw_only=True)
class FullOptions:
    """Which of the transformer's weights move; for `model_type=full` only."""

    layer_freeze_strategy: str = setting(
        "none",
        choices=("none", "bitfit"),
        help="`bitfit` trains the transformer's biases alone; `none` all weights. For `model_type=full`.",
    )
    train_modules: str = setting(
        "",
        help="Train these parts of the transformer only: a comma list of module names or shell patterns, such as "
        "`transformer_blocks.1?,norm_out`. For `model_type=full`.",
    )
    freeze_modules: str = setting(
        "",
        help="Leave these parts of the transformer as they are: a comma list like that of `train_modules`, over which "
        "it wins. For `model_type=full`.",
    )
