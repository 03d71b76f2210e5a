"""Finds the face that each image is cropped around; results are cached with the other file metadata."""

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
"""Left, top, right and bottom of a face, as fractions of the upright image's width and height."""


def face_centers(
    reader: FileReader, rows: NDArray[np.int64], *, sizes: NDArray[np.int32]
) -> tuple[Floats, dict[int, str]]:
    """The center of the largest face of each image at `rows` [n], and why some images cannot be read, by row.

    sizes: upright sizes of all files found [N, 2]. Returns centers [n, 2] as fractions of width and height. Without a
    face this is the center of the image, and the image is reported. Only images that are not cached are opened.
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
    centers = np.full((len(rows), 2), 0.5)
    with_face = faces.lengths > 0
    edges = np.frombuffer(b"".join(faces[place] for place in np.flatnonzero(with_face).tolist()), "<f8").reshape(
        -1, 2, 2
    )
    centers[known[with_face]] = edges.mean(axis=1)
    _report(reader, rows[known[~with_face]], looked_at=len(known))
    return centers, {int(rows[position]): reason for position, reason in unreadable.items()}


def _face(content: bytes, *, size: Size) -> bytes:
    """The face of an image in the cache's format; empty if there is none or the image is damaged."""
    from helpers.data.images.decode import UnreadableImage, decode

    seen = detector_size(size)
    try:
        pixels = decode(content, size=size, geometry=Geometry(resize=seen, crop=Box(0, 0, *seen)))
    except UnreadableImage:  # encoding will leave it out and report it
        return b""
    face = largest_face(pixels)
    return b"" if face is None else FACE.pack(*(edge / along for edge, along in zip(face, seen * 2, strict=True)))


def _report(reader: FileReader, faceless: NDArray[np.int64], *, looked_at: int) -> None:
    if len(faceless):
        names = some_names([printable(path) for path in reader.found.paths.take(faceless)])
        images = format_count(looked_at, "images")
        text = f"no face was found in {len(faceless)} of {images}, cropped at the center ({names})"
        reader.reporter.handle(Notice(text=f"dataset {reader.dataset_id}: {text}"))
