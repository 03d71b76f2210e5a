"""Which weights of the model to train, and the moving average of the trainable parameters."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option


@dataclass(frozen=True, kw_only=True)
class FullOptions:
    """Which of the transformer's weights to train; for `model_type=full` only."""

    layer_freeze_strategy: str = option(
        "none",
        choices=("none", "bitfit"),
        on_resume=OnResume.REFUSE,
        help="`bitfit` trains only the transformer's biases, `none` all weights. For `model_type=full`.",
    )
    train_modules: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="Train only these modules of the transformer: a comma-separated list of names or shell patterns, such as "
        "`transformer_blocks.1?,norm_out`. For `model_type=full`.",
    )
    freeze_modules: str = option(
        "",
        on_resume=OnResume.REFUSE,
        help="Do not train these modules of the transformer: a list like `train_modules`, which it overrides. For "
        "`model_type=full`.",
    )


@dataclass(frozen=True, kw_only=True)
class EmaOptions:
    """Exponential moving average (EMA) of the trainable parameters."""

    use_ema: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        help="Keep an exponential moving average (EMA) of the trainable parameters. The finished weights are the EMA "
        "weights.",
    )
    ema_decay: float = option(
        0.999,
        minimum=0.0,
        maximum=1.0,
        on_resume=OnResume.ANNOUNCE,
        help="Share of the EMA that stays at each optimizer step: 0.999 covers about the last 1000 steps. The first "
        "steps use (1 + step) / (10 + step) where that is less.",
    )
    ema_device: str = option(
        "cpu",
        choices=("cpu", "accelerator"),
        on_resume=OnResume.IGNORE,
        help="Device that holds the EMA, 4 bytes per trainable parameter: `accelerator` is faster, `cpu` needs no GPU "
        "memory.",
    )
    ema_update_interval: int = option(
        1,
        minimum=1,
        on_resume=OnResume.ANNOUNCE,
        help="Optimizer steps between EMA updates. Each update counts for that many steps, so the EMA covers the same "
        "span.",
    )
    ema_validation: str = option(
        "ema_only",
        choices=("none", "ema_only"),
        on_resume=OnResume.IGNORE,
        help="Weights that generate validation images: the EMA weights (`ema_only`) or the current weights (`none`).",
    )
