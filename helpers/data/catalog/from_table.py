"""Matches the files of a dataset with the rows of a table that holds their sizes or captions."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from helpers.data.catalog.scan import FileReader
from helpers.data.columns import TextColumn
from helpers.data.rejections import NO_CAPTION_IN_TABLE, NO_IMAGE, NO_SIZE_IN_TABLE, NOT_IN_TABLE
from helpers.data.sources.image_table import NO_ROW, ImageTable


@dataclass(frozen=True, kw_only=True)
class TableMatch:
    """The rows of `table` that belong to the files found. rows: one for each file [N], NO_ROW if it has none."""

    table: ImageTable
    rows: NDArray[np.int64]

    @property
    def rows_without_files(self) -> int:
        """The number of rows of the table without a matching file."""
        used = np.zeros(len(self.table.names) + 1, bool)
        used[self.rows] = True
        return len(self.table.names) - int(used[:-1].sum())

    def sizes(self, reader: FileReader) -> tuple[NDArray[np.int32], dict[int, str]]:
        """The upright sizes [N, 2] from the table, 0 x 0 if missing, and why files are rejected, by row."""
        sizes = self.table.sizes_of(self.rows)
        unknown = np.flatnonzero(sizes[:, 0] == 0)
        missing = self.rows[unknown] == NO_ROW
        reasons = zip(unknown.tolist(), missing.tolist(), strict=True)
        rejected = {row: NOT_IN_TABLE if absent else NO_SIZE_IN_TABLE for row, absent in reasons}
        known = reader.known_rejections()
        sizes[list(known)] = 0
        return sizes, rejected | known

    def no_images(self, sizes: NDArray[np.int32], rejected: dict[int, str]) -> dict[int, str]:
        """Files that have a row in the table but are not images, with the reason, by row."""
        none = np.flatnonzero((self.rows != NO_ROW) & (sizes[:, 0] == 0)).tolist()
        return {row: NO_IMAGE for row in none if row not in rejected}

    def captions(self, left: NDArray[np.int64], *, fallback: bool) -> tuple[TextColumn, dict[int, str]]:
        """The captions of the files `left` [n], in lines, empty if there are none; and why some have none, by file.

        fallback: whether files without a caption get one elsewhere, so that none is rejected.
        """
        rows = self.rows[left]
        texts = self.table.captions_of(rows)
        if fallback:
            return texts, {}
        uncaptioned = np.flatnonzero(texts.encoded.lengths == 0)
        reasons = zip(left[uncaptioned].tolist(), (rows[uncaptioned] == NO_ROW).tolist(), strict=True)
        return texts, {row: NOT_IN_TABLE if absent else NO_CAPTION_IN_TABLE for row, absent in reasons}


def match_table(table: ImageTable, reader: FileReader) -> TableMatch:
    """Match the files found with the rows of `table`; raises DataError if no file has a row."""
    rows = table.rows_of(reader.found.paths)
    if len(rows) and not (rows != NO_ROW).any():
        place = reader.source.describe()
        raise table.no_names_in_common(reader.found.paths, dataset_id=reader.dataset_id, source=place)
    return TableMatch(table=table, rows=rows)
