"""What of a model is trained, as one value: whoever trains, saves, restores or exports it asks nothing of its kind."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn


class Write(Protocol):
    """Writes what is trained, as it stands, to a file or into an empty folder that is there."""

    def __call__(self, path: Path, /, *, metadata: Mapping[str, str]) -> None:
        """metadata: for the header of each file of tensors."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """What moves in a loaded model, and how it is written down; see `kinds.build_trainable`.

    what: in words, such as `a LoRA of rank 16 on 96 layers`.
    weights: by the names they have in their file; each requires gradients, and nothing else in the model does.
    facts: of it, for the headers of files.
    save, load: fill a checkpoint's folder, and copy back from there what `save` wrote, bit for bit; load raises
    ModelError where the folder holds something else.
    as_base: a context in which the denoiser, or what wraps it, predicts as the base did before it was trained.
    result: the name in OUTPUT_DIR of what a finished run leaves; without a suffix it is a folder.
    export: write it, as other programs open it.
    """

    summary: str
    weights: Mapping[str, nn.Parameter]
    metadata: Mapping[str, str]
    save: Write
    load: Callable[[Path], None]
    as_base: Callable[[nn.Module], AbstractContextManager[None]]
    output_name: str
    export: Write
