"""Everything a run was told, flags and dataset file together, so that a person hears of all mistakes at once."""

from collections.abc import Sequence

from helpers.config.checks.launcher import check_launcher, rank_of_process
from helpers.config.cli import log_warnings, problems_of, read_arguments
from helpers.config.datasets.file import DatasetFile, read_datasets
from helpers.config.parse import ParseResult
from helpers.config.train_config import RunConfig
from helpers.errors import ConfigError, Problem

WHERE_IT_IS = frozenset({"output_dir", "data_backend_config"})
"""The options that say where the dataset file is, and where its relative paths start."""


def load_config(argv: Sequence[str]) -> tuple[RunConfig, DatasetFile]:
    """The run's options and datasets; the first process logs remarks that stop nothing.

    Raises ConfigError with everything wrong with either of them.
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
    """The datasets, or None and what is wrong with them: nothing, where nobody can know yet where the file is."""
    if reading.wrong & WHERE_IT_IS - reading.values.keys():
        return None, []
    return read_datasets(reading.config())
