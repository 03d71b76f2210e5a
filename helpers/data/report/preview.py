"""Summarizes a folder of images for the wizard; reads only headers, and only a sample of a large folder."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from helpers.config.wizard.machine import FolderPreview
from helpers.data.captions import caption_from_name
from helpers.data.catalog.scan import find_files, split_ending
from helpers.data.columns import printable
from helpers.data.types import Size
from helpers.storage.local import LocalSource

LOOKED_AT = 2_000
WORKERS = 8
LETTERS_OF_A_CAPTION, LEAST_SHARE = 3, 0.8


def preview_folder(folder: Path) -> FolderPreview:
    """A summary of the images in `folder`; raises DataError if it cannot be listed.

    In a large folder, only an evenly spaced sample is read.
    """
    source = LocalSource(folder)
    found = find_files(source, want_notes=True)
    paths = [found.paths[row] for row in range(0, len(found.paths), max(1, len(found.paths) // LOOKED_AT))]
    with ThreadPoolExecutor(WORKERS) as threads:
        sizes = list(threads.map(lambda path: _size(source, path), paths))
    images = [(path, size) for path, size in zip(paths, sizes, strict=True) if isinstance(size, Size)]
    unreadable = sum(size is None for size in sizes)
    share = len(images) / max(1, len(paths))
    captioned = sum(split_ending(path)[0] in found.notes for path, _ in images)
    return FolderPreview(
        images=round(share * len(found.paths)),
        sizes=tuple((size.width, size.height) for _, size in images),
        unreadable=unreadable,
        captioned=round(captioned / max(1, len(images)) * share * len(found.paths)),
        telling_names=sum(_reads_like_caption(caption_from_name(path)) for path, _ in images),
        example=printable(caption_from_name(images[0][0])) if images else "",
    )


def _reads_like_caption(name: str) -> bool:
    """Whether a name consists of words, unlike the numbered names of a camera."""
    letters = sum(letter.isalpha() or letter == " " for letter in name)
    return letters >= max(LETTERS_OF_A_CAPTION, LEAST_SHARE * len(name))


def _size(source: LocalSource, path: str) -> Size | bool | None:
    """The upright size of an image; None if it cannot be read, False if the file is not an image."""
    from helpers.data.images.decode import START_BYTES, NotAImage, UnreadableImage, read_size

    try:
        start = source.read_start(path, START_BYTES)
        whole = (lambda: source.read(path)) if len(start) == START_BYTES else None
        return read_size(start, path=path, whole=whole)
    except (UnreadableImage, OSError):
        return None
    except NotAImage:
        return False
