"""Which of the model's own weights are trained, and what is averaged of what is trained."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class FullOptions:
    """Which of the transformer's weights move; for `model_type=full` only."""

    layer_freeze_strategy: str = option(
        "none",
        choices=("none", "bitfit"),
        on_resume=OnResume.REFUSE,
        help="`bitfit` trains the transformer's biases alone; `none` all weights. For `model_type=full`.",
    )
    train_modules: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="Train these parts of the transformer only: a comma list of module names or shell patterns, such as "
        "`transformer_blocks.1?,norm_out`. For `model_type=full`.",
    )
    freeze_modules: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="Leave these parts of the transformer as they are: a comma list like that of `train_modules`, over which "
        "it wins. For `model_type=full`.",
    )


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    """A running average (EMA) of what is trained."""

    use_ema: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        help="Keep an exponential moving average of what is trained; the finished weights are the average's.",
    )
    ema_decay: float = option(
        0.999,
        minimum=0.0,
        maximum=1.0,
        on_resume=OnResume.ANNOUNCE,
        help="The share of the average that stays at each optimizer step: 0.999 looks back about 1000 steps. Less in "
        "the first steps: (1 + step) / (10 + step).",
    )
    ema_device: str = option(
        "cpu",
        choices=("cpu", "accelerator"),
        on_resume=OnResume.IGNORE,
        help="Where the average is kept, 4 bytes for each trained number: `accelerator` is faster, `cpu` leaves the "
        "GPU's memory alone.",
    )
    ema_update_interval: int = option(
        1,
        minimum=1,
        on_resume=OnResume.ANNOUNCE,
        help="Optimizer steps between updates of the average; each counts for as many steps, so that it looks back as "
        "far.",
    )
    ema_validation: str = option(
        "ema_only",
        choices=("none", "ema_only"),
        on_resume=OnResume.IGNORE,
        help="Whether validation images are drawn from the average (`ema_only`) or the weights as they are (`none`).",
    )
