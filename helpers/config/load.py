"""Loads the whole configuration, options and dataset file, and reports all problems of both at once."""

from collections.abc import Sequence

from helpers.config.checks.launcher import check_launcher, rank_of_process
from helpers.config.datasets.file import DatasetFile, read_datasets
from helpers.config.parse import ParseResult, log_warnings, problems_of, read_arguments
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

LOCATES_DATASETS = frozenset({"output_dir", "data_backend_config"})
"""The options that locate the dataset file and the base of its relative paths."""


def load_config(argv: Sequence[str]) -> tuple[RunConfig, DatasetFile]:
    """The run's options and datasets; the first process logs warnings.

    Raises ConfigError with every problem of either.
    """
    reading = read_arguments(argv)
    config = reading.config()
    problems = [*problems_of(reading), *check_launcher(config)]
    files, wrong = files_of(reading)
    if files is None or problems:
        raise ConfigError([*problems, *wrong])
    if rank_of_process() == 0:
        log_warnings(reading)
    return config, files


def files_of(reading: ParseResult) -> tuple[DatasetFile | None, list[Problem]]:
    """The datasets, or None and their problems: none where a wrong option hides where the file is."""
    if reading.wrong & LOCATES_DATASETS - reading.values.keys():
        return None, []
    return read_datasets(reading.config())
