"""Warns about captions that a text encoder truncates, since it never sees the rest."""

from collections.abc import Sequence, Set

import numpy as np

from helpers.cache.text import token_counts
from helpers.data.columns import printable
from helpers.data.report.duplicates import evenly_spaced
from helpers.data.report.survey import SAMPLED
from helpers.data.types import Catalog
from helpers.models.family import TextEncoderSpec
from helpers.reporting.events import Notice
from helpers.reporting.pages.datasets_page import CaptionLengths
from helpers.reporting.reporter import Reporter
from helpers.storage.protocols import CacheStore

MAX_LISTED = 3


def warn_truncated_captions(
    captions: Sequence[str],
    *,
    catalogs: Sequence[Catalog],
    parts: Sequence[TextEncoderSpec],
    store: CacheStore,
    reporter: Reporter,
) -> None:
    """Warn for each tokenizer that truncates captions: how many, the longest, and some of their images.

    captions: of all catalogs, each once. store: the text cache, which keeps the token counts.
    """
    for limit in (part.limit for part in parts if part.limit is not None and captions):
        counts = token_counts(captions, limit=limit, store=store)
        long = np.flatnonzero(counts > limit.tokens).tolist()
        if long:
            named = ", ".join(_images({captions[row] for row in long}, catalogs=catalogs))
            text = (
                f"{len(long)} of {len(captions)} captions are longer than the {limit.tokens} tokens that {limit.name} "
                f"reads, the longest of {counts.max()} tokens; it does not see the rest: {named}"
            )
            reporter.handle(Notice(level="warning", text=text))


def lengths_by_tokenizer(
    catalog: Catalog, *, parts: Sequence[TextEncoderSpec], store: CacheStore
) -> tuple[CaptionLengths, ...]:
    """The token counts of the captions of evenly spaced images of a dataset, by tokenizer."""
    rows = evenly_spaced(len(catalog), SAMPLED).tolist()
    captions = tuple(dict.fromkeys(caption for row in rows for caption in catalog.captions_of(row)))
    return tuple(
        CaptionLengths(
            tokenizer=limit.name,
            limit=limit.tokens,
            lengths=token_counts(captions, limit=limit, store=store).tolist(),
        )
        for limit in (part.limit for part in parts)
        if limit is not None
    )


def _images(captions: Set[str], *, catalogs: Sequence[Catalog]) -> list[str]:
    """The first images with one of the captions."""
    named: list[str] = []
    for catalog in catalogs:
        for row in range(len(catalog)):
            if not captions.isdisjoint(catalog.captions_of(row)):
                named.append(f"{catalog.dataset_id}: {printable(catalog.paths[row])}")
                if len(named) > MAX_LISTED:
                    return [*named[:MAX_LISTED], "…"]
    return named
