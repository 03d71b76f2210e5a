"""Finds the largest face of an image with BlazeFace, a network small enough to run on every image.

Bazarevsky et al., "BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs" (arXiv:1907.05047), in the
full-range variant for faces at any distance. NOTICE gives the source of the weights.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from helpers.data.types import Box, Size

if TYPE_CHECKING:
    from torch import Tensor

EDGE_PX = 256
"""Width and height of the network's input: a whole image, padded with black to a square."""

SCORE_THRESHOLD = 0.75
IOU_THRESHOLD = 0.3
BLOCKS, HALVING = 31, (7, 15, 23)
ANCHORS = ((16, 2), (8, 6))
"""Cells along each edge of the two anchor grids, and the anchors per cell."""

Floats = NDArray[np.float32]


def detector_size(size: Size) -> Size:
    """The size that `largest_face` expects: the same aspect ratio, with EDGE_PX as the longer edge."""
    scale = EDGE_PX / max(size)
    return Size(max(1, round(size.width * scale)), max(1, round(size.height * scale)))


def largest_face(pixels: NDArray[np.uint8]) -> Box | None:
    """The box of the largest face in RGB pixels [H, W, 3] of `detector_size`, in pixels; None without a face."""
    height, width = pixels.shape[:2]
    left, top = (EDGE_PX - width) // 2, (EDGE_PX - height) // 2
    square = np.zeros((EDGE_PX, EDGE_PX, 3), np.uint8)
    square[top : top + height, left : left + width] = pixels
    faces = _faces(*_look(square))
    if not len(faces):
        return None
    x, y, across, down = faces[np.argmax(faces[:, 2] * faces[:, 3])].tolist()
    x, y = x - left, y - top
    return Box(round(x - across / 2), round(y - down / 2), round(x + across / 2), round(y + down / 2))


@contextmanager
def single_threaded() -> Iterator[None]:
    """Use one PyTorch thread per detection: operations this small are slower when split among cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _faces(scores: Floats, boxes: Floats) -> Floats:
    """The faces [N, 4] (center x and y, width, height) among anchors' boxes [A, 4]; boxes of one face are averaged."""
    likely = scores > SCORE_THRESHOLD
    scores, boxes = scores[likely], boxes[likely]
    faces = []
    while len(boxes):
        same = _overlap(boxes, boxes[np.argmax(scores)]) > IOU_THRESHOLD
        faces.append(np.average(boxes[same], axis=0, weights=scores[same]))
        scores, boxes = scores[~same], boxes[~same]
    return np.array(faces, np.float32).reshape(-1, 4)


def _overlap(boxes: Floats, one: Floats) -> Floats:
    """The intersection over union of each of `boxes` [N, 4] with `one` [4]."""
    starts, ends = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    shared = np.minimum(ends, one[:2] + one[2:] / 2) - np.maximum(starts, one[:2] - one[2:] / 2)
    area = np.maximum(shared, 0).prod(axis=1)
    return area / (boxes[:, 2:].prod(axis=1) + one[2:].prod() - area)


def _look(square: NDArray[np.uint8]) -> tuple[Floats, Floats]:
    """The score of a face at each anchor [A], and the boxes [A, 4] in pixels of `square`."""
    import torch

    image = torch.from_numpy(square).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        scores, offsets = _run(image, _weights())
    anchors = np.concatenate([_anchors(cells, each) for cells, each in ANCHORS])
    boxes = offsets.numpy()[:, :4].copy()
    boxes[:, :2] += anchors
    return scores.numpy(), boxes


def _anchors(cells: int, each: int) -> Floats:
    """The centers of a grid's cells [cells * cells * each, 2] in pixels, row by row, repeated for each anchor."""
    centers = (np.arange(cells, dtype=np.float32) + 0.5) * (EDGE_PX / cells)
    across, down = np.meshgrid(centers, centers)
    return np.stack([across, down], axis=-1).reshape(-1, 2).repeat(each, axis=0)


@cache
def _weights() -> Mapping[str, "Tensor"]:
    from safetensors.torch import load_file

    weights = load_file(Path(__file__).with_name("blazeface.safetensors"))
    return {name: weight.float() for name, weight in weights.items()}


def _run(image: "Tensor", weights: Mapping[str, "Tensor"]) -> tuple["Tensor", "Tensor"]:
    """Scores [A] and offsets [A, 16] (center relative to the anchor, width, height, six points) of every anchor."""
    import torch
    from torch.nn.functional import conv2d, pad, relu

    values = relu(conv2d(pad(image, (1, 2, 1, 2)), weights["start.weight"], weights["start.bias"], stride=2))
    for number in range(BLOCKS):
        values = _block(values, weights, f"block.{number}", halving=number in HALVING)
    grids = (("fine", values), ("coarse", relu(_mixed(values, weights, f"block.{BLOCKS}", halving=True))))
    scores, offsets = [], []
    for name, grid in grids:
        for kind, numbers, found in (("sureness", 1, scores), ("offsets", 16, offsets)):
            answers = conv2d(grid, weights[f"{name}.{kind}.weight"], weights[f"{name}.{kind}.bias"])
            found.append(answers.permute(0, 2, 3, 1).reshape(-1, numbers))
    return torch.cat(scores)[:, 0].sigmoid(), torch.cat(offsets)


def _block(values: "Tensor", weights: Mapping[str, "Tensor"], name: str, *, halving: bool) -> "Tensor":
    from torch.nn.functional import max_pool2d, pad, relu

    mixed = _mixed(values, weights, name, halving=halving)
    kept = max_pool2d(values, 2) if halving else values
    return relu(mixed + pad(kept, (0, 0, 0, 0, 0, mixed.shape[1] - kept.shape[1])))


def _mixed(values: "Tensor", weights: Mapping[str, "Tensor"], name: str, *, halving: bool) -> "Tensor":
    """A depthwise convolution, followed by a pointwise one."""
    from torch.nn.functional import conv2d, pad

    weight, channels = weights[f"{name}.spread.weight"], values.shape[1]
    if halving:
        spread = conv2d(pad(values, (0, 1, 0, 1)), weight, stride=2, groups=channels)
    else:
        spread = conv2d(values, weight, padding=1, groups=channels)
    return conv2d(spread, weights[f"{name}.mix.weight"], weights[f"{name}.mix.bias"])
