"""Messages about images that are left out: how many for each reason, their names, and the fix."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.data.columns import printable
from helpers.errors import DataError

if TYPE_CHECKING:
    from helpers.data.types import Rejected

NAMES_SHOWN = 3

TOO_SMALL = "is smaller than minimum_image_size"
TOO_LONG = "has a training size with an edge longer than the model supports"
NO_CAPTION_FILE = "has no caption file of the same name"
EMPTY_CAPTION_FILE = "has an empty caption file"
FOREIGN_CAPTION_FILE = "has a caption file that is not UTF-8"
NOTHING_LEFT_TO_SAY = "has no caption left after caption_filter_list"
SILENT_NAME = "has no words in its file name"
UNREADABLE = "cannot be read"
UNLOADABLE = "cannot be downloaded"
NO_IMAGE = "is not an image in any format that can be read"
NOT_IN_TABLE = "has no row in the table"
NO_SIZE_IN_TABLE = "has no width or height in the table"
NO_CAPTION_IN_TABLE = "has no caption in the table"
# Caches store this reason: with another text, their images would get OTHER_FIX.
OTHER_SIZE = "is not of the size it was taken for"

FIXES = {
    TOO_SMALL: "lower minimum_image_size",
    TOO_LONG: "set crop to true, or lower resolution",
    NO_CAPTION_FILE: "write one NAME.txt for each NAME.png, set caption_fallback to true, or change caption_strategy",
    EMPTY_CAPTION_FILE: "write captions into these files, or set caption_fallback to true",
    FOREIGN_CAPTION_FILE: "save these text files as UTF-8",
    NOTHING_LEFT_TO_SAY: "change caption_filter_list, or write longer captions",
    SILENT_NAME: "rename these files, or change caption_strategy",
    UNREADABLE: "give your user permission to read these files",
    UNLOADABLE: "correct these addresses, or set csv_retry_failed to true to try them again",
    NOT_IN_TABLE: "add rows for these files, or check that filename_column holds their paths",
    NO_SIZE_IN_TABLE: "fill in the columns with the sizes of the upright images",
    NO_CAPTION_IN_TABLE: "fill in the column, set a fallback_caption_column, or set caption_fallback to true",
    OTHER_SIZE: "correct the table (if EXIF rotates an image, its width and height are swapped), or start again",
}
OTHER_FIX = "replace these files, or convert them"


def describe_rejected(rejected: Sequence["Rejected"]) -> list[str]:
    """A text for each reason, most common first: the number of images, some names, and the fix."""
    names: dict[str, list[str]] = defaultdict(list)
    for image in rejected:
        names[image.reason].append(printable(image.path))
    lines = []
    for reason, paths in sorted(names.items(), key=lambda item: (-len(item[1]), item[0])):
        fix = next((fix for start, fix in FIXES.items() if reason.startswith(start)), OTHER_FIX)
        lines.append(f"{reason}: {len(paths)} ({some_names(paths)})\n    fix: {fix}")
    return lines


def some_names(names: Sequence[str]) -> str:
    """The first few of `names`, with an ellipsis if there are more."""
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")


def empty_dataset_error(dataset_id: str, *, place: str, rejected: Sequence["Rejected"], ignored: int) -> DataError:
    """The error for a dataset without any image to train on."""
    if not rejected:
        others = f" ({ignored} other files)" if ignored else ""
        return DataError(
            f"dataset {dataset_id!r} has no images: none were found in {place}{others}. "
            "Put images there, or change its instance_data_dir."
        )
    why = "\n".join(f"  {line}" for line in describe_rejected(rejected))
    return DataError(
        f"dataset {dataset_id!r} has nothing to train on: all {len(rejected)} images in {place} are left out.\n{why}"
    )
