"""Where the faces are that images are cut around, found once in each and remembered beside what else is known."""

import struct

import numpy as np
from numpy.typing import NDArray

from helpers.data.catalog.scan import FileReader
from helpers.data.columns import printable
from helpers.data.images.face_detector import detector_size, largest_face, single_threaded
from helpers.data.images.geometry import Floats
from helpers.data.rejections import some_names
from helpers.data.types import Box, Geometry, Size
from helpers.reporting.events import Notice
from helpers.reporting.format import format_count

FACES = "faces-1"
FACE = struct.Struct("<4d")
"""Left, top, right and bottom of a face, as parts of the upright image's width and height."""


def face_centers(
    reader: FileReader, rows: NDArray[np.int64], *, sizes: NDArray[np.int32]
) -> tuple[Floats, dict[int, str]]:
    """Where the largest face of each image of `rows` [n] has its middle, and why others cannot be read, by row.

    sizes: of all files found, upright [N, 2]. Returned [n, 2] in parts of width and height: the image's own middle
    where there is no face, which is told. Only images not yet known are opened.
    """

    def look(position: int) -> bytes:
        row = int(rows[position])
        return _face(reader.source.read(reader.found.paths[row]), size=Size(*sizes[row].tolist()))

    known, faces, unreadable = reader.read_missing(
        reader.found.keys[rows],
        read=look,
        table=FACES,
        what="looked for faces in images",
        unit="images",
        meanwhile=single_threaded,
    )
    middles = np.full((len(rows), 2), 0.5)
    with_face = faces.lengths > 0
    edges = np.frombuffer(b"".join(faces[place] for place in np.flatnonzero(with_face).tolist()), "<f8").reshape(
        -1, 2, 2
    )
    middles[known[with_face]] = edges.mean(axis=1)
    _tell(reader, rows[known[~with_face]], looked_at=len(known))
    return middles, {int(rows[position]): reason for position, reason in unreadable.items()}


def _face(content: bytes, *, size: Size) -> bytes:
    """The face of an image as it is remembered: nothing where there is none, or where the image is damaged."""
    from helpers.data.images.decode import UnreadableImage, decode

    seen = detector_size(size)
    try:
        pixels = decode(content, size=size, geometry=Geometry(resize=seen, crop=Box(0, 0, *seen)))
    except UnreadableImage:  # it is left out by name when it is to be encoded
        return b""
    face = largest_face(pixels)
    return b"" if face is None else FACE.pack(*(edge / along for edge, along in zip(face, seen * 2, strict=True)))


def _tell(reader: FileReader, faceless: NDArray[np.int64], *, looked_at: int) -> None:
    if len(faceless):
        names = some_names([printable(path) for path in reader.found.paths.take(faceless)])
        images = format_count(looked_at, "images")
        text = f"no face was found in {len(faceless)} of {images}, cut at their middle ({names})"
        reader.reporter.handle(Notice(text=f"dataset {reader.dataset_id}: {text}"))
