"""What is wrong with how datasets are mixed: amounts that mean nothing, and kinds that cannot be trained so."""

from collections.abc import Iterator, Sequence

from helpers.config.datasets.entries import Entry
from helpers.config.datasets.types import ImageDataset
from helpers.errors import Problem

OF_TRAINING = ("repeats", "probability", "ignore_epochs", "is_regularisation_data")


def check_mixing(images: Sequence[tuple[Entry, ImageDataset | None]], *, model_type: str) -> Iterator[Problem]:
    """Everything wrong with amounts and kinds of datasets; None stands for one that could not be read."""
    trained = [(entry, dataset) for entry, dataset in images if dataset is not None and not entry.is_eval]
    for entry, dataset in images:
        if dataset is not None and entry.is_eval:
            yield from _kept_back(entry)
    for entry, dataset in trained:
        if dataset.ignore_epochs and dataset.repeats:
            reason = "with ignore_epochs the size of this dataset, and so its repeats, decide nothing"
            yield entry.problem("repeats", reason=reason, fix="leave it out, and say `probability`")
        if dataset.is_regularisation_data and model_type != "lora":
            reason = "the base model's own prediction is gone once its weights are trained in full"
            yield entry.problem("is_regularisation_data", reason=reason, fix="say false, or MODEL_TYPE=lora")
    if trained and all(dataset.ignore_epochs for _, dataset in trained):
        reason = "no dataset is left that says how long an epoch is"
        yield trained[0][0].problem("ignore_epochs", reason=reason, fix="say false in one entry at least")


def _kept_back(entry: Entry) -> Iterator[Problem]:
    for key in OF_TRAINING:
        if entry.said.get(key):
            reason = "an eval dataset is never trained on"
            yield entry.problem(key, reason=reason, fix='leave it out, or say "dataset_type": "image"')
