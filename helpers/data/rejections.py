"""Words for pictures that are left out: how many for each reason, which ones, and what would bring them back."""

from collections import defaultdict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from helpers.data.columns import printable
from helpers.errors import DataError

if TYPE_CHECKING:
    from helpers.data.types import Rejected

NAMES_SHOWN = 3

TOO_SMALL = "is smaller than minimum_image_size"
TOO_LONG = "would be trained on with an edge longer than the model can place"
NO_CAPTION_FILE = "has no caption file of its name beside it"
EMPTY_CAPTION_FILE = "has an empty caption file"
FOREIGN_CAPTION_FILE = "has a caption file that is not UTF-8"
NOTHING_LEFT_TO_SAY = "has no caption left after caption_filter_list"
SILENT_NAME = "has a file name that says nothing"
UNREADABLE = "cannot be read"
UNLOADABLE = "cannot be downloaded"
NO_PICTURE = "is not a picture in any format that can be read"
NOT_IN_TABLE = "has no row in the table"
NO_SIZE_IN_TABLE = "has no width or height in the table"
NO_CAPTION_IN_TABLE = "has no caption in the table"
OTHER_SIZE = "is not of the size it was taken for"

CURES = {
    TOO_SMALL: "lower minimum_image_size",
    TOO_LONG: "set crop to true, or lower resolution",
    NO_CAPTION_FILE: "write one NAME.txt for each NAME.png, set caption_fallback to true, or change caption_strategy",
    EMPTY_CAPTION_FILE: "write captions into these files, or set caption_fallback to true",
    FOREIGN_CAPTION_FILE: "save these text files as UTF-8",
    NOTHING_LEFT_TO_SAY: "change caption_filter_list, or write longer captions",
    SILENT_NAME: "rename these files, or change caption_strategy",
    UNREADABLE: "let these files be read by you",
    UNLOADABLE: "mend these addresses, or set csv_retry_failed to true to ask for them once more",
    NOT_IN_TABLE: "add rows for these files, or see that filename_column holds their paths",
    NO_SIZE_IN_TABLE: "fill in the columns, with the sizes of the upright pictures",
    NO_CAPTION_IN_TABLE: "fill in the column, name a fallback_caption_column, or set caption_fallback to true",
    OTHER_SIZE: "correct the table (a picture that EXIF turns has its width and height exchanged), or start again",
}
OTHER_CURE = "replace these files, or convert them"


def describe_rejected(rejected: Sequence["Rejected"]) -> list[str]:
    """A line for each reason, the commonest first: how many pictures, some names, and the cure."""
    names: dict[str, list[str]] = defaultdict(list)
    for picture in rejected:
        names[picture.reason].append(printable(picture.path))
    lines = []
    for reason, paths in sorted(names.items(), key=lambda item: (-len(item[1]), item[0])):
        cure = next((cure for start, cure in CURES.items() if reason.startswith(start)), OTHER_CURE)
        lines.append(f"{reason}: {len(paths)} ({some_names(paths)})\n    cure: {cure}")
    return lines


def some_names(names: Sequence[str]) -> str:
    """The first few of `names`, and whether there are more."""
    return ", ".join(names[:NAMES_SHOWN]) + (", …" if len(names) > NAMES_SHOWN else "")


def nothing_left(dataset_id: str, *, place: str, rejected: Sequence["Rejected"], ignored: int) -> DataError:
    """The error for a data set without a single picture to train on."""
    if not rejected:
        others = f" ({ignored} other files)" if ignored else ""
        return DataError(
            f"data set {dataset_id!r} has no pictures: none were found in {place}{others}. "
            "Put pictures there, or change its instance_data_dir."
        )
    why = "\n".join(f"  {line}" for line in describe_rejected(rejected))
    return DataError(
        f"data set {dataset_id!r} has nothing to train on: all {len(rejected)} pictures in {place} are left out.\n{why}"
    )
