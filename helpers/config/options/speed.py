"""Speed and peak VRAM of a step; training itself does not change."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option

ATTENTIONS = ("auto", "flash", "efficient", "cudnn", "math")


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Compilation, attention kernel, gradient checkpointing and offloading."""

    training_dynamo_backend: str = option(
        "no",
        choices=("no", "inductor"),
        on_resume=OnResume.ANNOUNCE,
        help="`inductor` compiles the transformer's blocks, each kind once for all sizes. Steps are faster after a "
        "minute or more of compiling at the start. Needs a C++ compiler.",
    )
    attention: str = option(
        "auto",
        choices=ATTENTIONS,
        on_resume=OnResume.ANNOUNCE,
        help="Attention kernel of the transformer. `auto` lets PyTorch choose, on H100 and H200 without cuDNN's "
        "kernel; the others are PyTorch's own names. A kernel that the device lacks is an error.",
    )
    gradient_checkpointing_interval: int = option(
        1,
        minimum=1,
        on_resume=OnResume.IGNORE,
        requires=("gradient_checkpointing", (True,)),
        help="Recompute the activations of every n-th block and keep those of the others. 2 is faster than 1 and "
        "needs more memory.",
    )
    offload_blocks: int = option(
        0,
        minimum=0,
        on_resume=OnResume.IGNORE,
        help="Number of the transformer's last blocks to keep in CPU memory. Each is copied to the device when "
        "needed, while the one before it computes. For MODEL_TYPE=lora with gradient checkpointing.",
    )
    offload_activations: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Keep what the backward pass needs in CPU memory instead of on the device. Saves memory with large "
        "batches.",
    )
