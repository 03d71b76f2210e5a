"""A pipeline's components as the single files that people have of them, and no network to get anything else from."""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import Tensor

from helpers.models.formats.safetensors import write_tensors
from helpers.models.sd3.weights.component_files import open_part, read_config
from helpers.models.sd3.weights.original.config import HEADER_ENTRY, left_open
from helpers.models.sd3.weights.original.vae import vae_to_original

NAMES = {
    "text_encoder": "clip_l.safetensors",
    "text_encoder_2": "clip_g.safetensors",
    "text_encoder_3": "t5xxl_fp16.safetensors",
    "vae": "sd3_vae.safetensors",
}
OPTIONS = {
    "text_encoder": "pretrained_clip_l_model_name_or_path",
    "text_encoder_2": "pretrained_clip_g_model_name_or_path",
    "text_encoder_3": "pretrained_t5_model_name_or_path",
    "vae": "pretrained_vae_model_name_or_path",
}

Edit = Callable[[dict[str, Tensor]], object]


def component_file(pipeline: Path, part: str, to: Path, *, edit: Edit | None = None, original: bool = True) -> Path:
    """Write a component of `pipeline` as one file; original: a VAE by the original names. edit: changes the tensors.

    The header tells what the shapes of so small a model do not, as in every file that this program makes of one.
    """
    with open_part(pipeline / part, None) as (tensors, _):
        facts = {HEADER_ENTRY: json.dumps({part: left_open(tensors, read_config(pipeline / part), part)})}
        named = vae_to_original(tensors) if part == "vae" and original else tensors
        to.parent.mkdir(parents=True, exist_ok=True)
        if edit is None:
            write_tensors(to, named, metadata=facts)
        else:
            changed = {name: each.make().clone() for name, each in named.items()}
            edit(changed)
            save_file(changed, to, metadata=facts)
    return to


def all_component_files(pipeline: Path, folder: Path) -> dict[str, str]:
    """Write each as one file; the options that name them."""
    return {option: str(component_file(pipeline, part, folder / NAMES[part])) for part, option in OPTIONS.items()}


def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every try to reach another machine fail the test, by a name or by an address."""

    def refused(*what: Any, **_: Any) -> Any:
        raise AssertionError(f"the network was asked for {what[-1]}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
