"""The trained weights of a model as one value, so that training, saving and export need not know the adapter's kind."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn


class Write(Protocol):
    """Writes the current trained weights to a file, or into an existing empty folder."""

    def __call__(self, path: Path, /, *, metadata: Mapping[str, str]) -> None:
        """metadata: entries for the header of each safetensors file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """The trainable weights of a loaded model, and how to save and export them; see `registry.build_trainable`.

    summary: a description, such as `a LoRA of rank 16 on 96 layers`.
    weights: by their names in the saved file; only these require gradients.
    metadata: entries that describe it, for the headers of files.
    save, load: write into a checkpoint's folder, and copy back from it, bit for bit; load raises ModelError if the
    folder's content does not match.
    as_base: a context in which the denoiser, or its wrapper, predicts as the untrained base does.
    output_name: the name of the finished run's result in OUTPUT_DIR; without a suffix it is a folder.
    export: writes the result in a form that other programs open.
    """

    summary: str
    weights: Mapping[str, nn.Parameter]
    metadata: Mapping[str, str]
    save: Write
    load: Callable[[Path], None]
    as_base: Callable[[nn.Module], AbstractContextManager[None]]
    output_name: str
    export: Write
