"""How quickly a step is computed, and in how much of the device's memory; what is learned stays the same."""

from dataclasses import dataclass

from helpers.config.option import OnResume, option

ATTENTIONS = ("auto", "flash", "efficient", "cudnn", "math")


@dataclass(frozen=True, kw_only=True)
class SpeedOptions:
    """Compiling, attention, and what is kept where between the forward and the backward pass."""

    training_dynamo_backend: str = option(
        "no",
        choices=("no", "inductor"),
        on_resume=OnResume.ANNOUNCE,
        help="`inductor` compiles the transformer's blocks, each kind once for all sizes: faster steps after a minute "
        "or more of compiling at the start. Needs a C++ compiler.",
    )
    attention: str = option(
        "auto",
        choices=ATTENTIONS,
        on_resume=OnResume.ANNOUNCE,
        help="Which of PyTorch's attention kernels computes the transformer's: `auto` lets it choose, on H100 and "
        "H200 without cuDNN's; the others are its own names. Refused where the device lacks the one asked for.",
    )
    gradient_checkpointing_interval: int = option(
        1,
        minimum=1,
        on_resume=OnResume.IGNORE,
        requires=("gradient_checkpointing", (True,)),
        help="Every n-th block computes its activations again, and the others keep them: 2 is faster than 1, and takes "
        "more memory.",
    )
    offload_blocks: int = option(
        0,
        minimum=0,
        on_resume=OnResume.IGNORE,
        help="So many of the transformer's last blocks wait in the processor's memory and visit the device when their "
        "turn comes, the next one on its way while one computes. For MODEL_TYPE=lora with gradient checkpointing.",
    )
    offload_activations: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="What the backward pass needs waits in the processor's memory, not on the device: for large batches.",
    )
