"""Opens a table of addresses as a dataset: what is not here yet is downloaded, once."""

from helpers.config.datasets.types import CsvDataset
from helpers.data.sources.image_table import ImageTable
from helpers.data.sources.urls import read_urls
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.storage.downloads import DownloadedSource, Downloads
from helpers.storage.http import FetchLimits
from helpers.storage.protocols import SourceStore


def open_downloaded(
    dataset: CsvDataset, *, ask: bool, at_once: int, reporter: Reporter, limits: FetchLimits | None = None
) -> tuple[SourceStore, ImageTable]:
    """The images behind a table's addresses, and the table.

    ask: whether to download what is missing, `at_once` at a time; else things are taken as they are.
    Raises DataError where the table cannot be read or the network is gone, CacheError where nothing can be written.
    """
    caption_column = dataset.csv_caption_column if dataset.caption_strategy == "csv" else None
    urls, table = read_urls(dataset.csv_file, url_column=dataset.csv_url_column, caption_column=caption_column)
    downloads = Downloads(dataset.csv_cache_dir)
    missing = downloads.missing(table.names, retry_failed=dataset.csv_retry_failed) if ask else []
    if missing:
        with stage(reporter, f"download images of {dataset.id}", total=len(missing), unit="images") as advance:
            downloads.download(
                ((table.names[place], urls[place]) for place in missing),
                at_once=at_once,
                limits=limits or FetchLimits(),
                advance=advance,
            )
        downloads = Downloads(dataset.csv_cache_dir)
    return DownloadedSource(downloads, names=table.names, place=table.place), table
