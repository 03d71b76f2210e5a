"""The batches of a run; with `vae_cache_clear_each_epoch`, each epoch has new random crops, encoded when it begins.

An image's crop is a function of the seed, the image and the epoch, so a resumed run has the same ones.
"""

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import replace

from helpers.data.catalog.build import recrop
from helpers.data.sources.open import epoch_crop_store
from helpers.dataloader.loader import BatchBuilder, prefetch
from helpers.dataloader.types import Position, TrainBatch
from helpers.errors import CacheError
from helpers.training.preparation.prepare import PreparedDataset, PreparedRun, encode_flips, open_flips

EPOCHS_KEPT = 2
"""The current epoch and the previous one, which the latest checkpoint may be in."""


def batches_from(
    start: Position, *, source: BatchBuilder, prepared_run: PreparedRun, depth: int
) -> Generator[TrainBatch, None, None]:
    """This rank's batches from `start` on, without end, at most `depth` prepared ahead; close it to stop."""
    pin_memory = prepared_run.runtime.device.type == "cuda"
    changing = [prepared for prepared in prepared_run.datasets if prepared.dataset.vae_cache_clear_each_epoch]
    if not changing:
        yield from prefetch(source, start, depth=depth, pin_memory=pin_memory)
    order = source.order
    while True:
        end = order.position_after(order.batches_before(start.epoch + 1))
        of_epoch = _with_crops_of(start.epoch, source=source, changing=changing, prepared_run=prepared_run)
        with closing(prefetch(of_epoch, start, depth=depth, pin_memory=pin_memory, end=end)) as batches:
            yield from batches
        start = end


def _with_crops_of(
    epoch: int, *, source: BatchBuilder, changing: Sequence[PreparedDataset], prepared_run: PreparedRun
) -> BatchBuilder:
    """`source` with the latents of the crops of `epoch`, encoded unless cached; old crops are deleted.

    Those of the first epoch were encoded before training. Raises CacheError if an image cannot be read any more,
    since the order of images is fixed.
    """
    if epoch == 0:
        return source
    crops = [_cropped(prepared, epoch=epoch, seed=source.seed, prepared_run=prepared_run) for prepared in changing]
    prepared_run.workers.ranks.barrier()
    for prepared in changing if prepared_run.workers.ranks.rank == 0 else ():
        _remove_before(epoch - EPOCHS_KEPT + 1, prepared=prepared, seed=source.seed)
    return replace(
        source,
        latents={**source.latents, **{each.dataset.id: each.latents for each in crops}},
        mirrored={**source.mirrored, **{each.dataset.id: each.mirrored for each in crops if each.mirrored}},
    )


def _cropped(prepared: PreparedDataset, *, epoch: int, seed: int, prepared_run: PreparedRun) -> PreparedDataset:
    dataset, latent_store = prepared.dataset, prepared.latent_store
    store = epoch_crop_store(dataset, latents=latent_store, seed=seed, epoch=epoch)
    catalog = recrop(prepared.catalog, dataset=dataset, seed=seed, epoch=epoch)
    rejected = encode_flips(
        dataset,
        catalog=catalog,
        latent_store=latent_store,
        store=store,
        part=prepared_run.latent_part,
        workers=prepared_run.workers,
    )
    if rejected:
        raise CacheError(
            f"{dataset.id}: {rejected[0].path} was trained on and {rejected[0].reason}. Restore the file; the "
            "same command then resumes from the last checkpoint."
        )
    return open_flips(dataset, catalog=catalog, latent_store=latent_store, store=store, part=prepared_run.latent_part)


def _remove_before(epoch: int, *, prepared: PreparedDataset, seed: int) -> None:
    """Delete the crops of the epochs before `epoch`, back to the first epoch without any."""
    for over in range(epoch - 1, 0, -1):
        store = epoch_crop_store(prepared.dataset, latents=prepared.latent_store, seed=seed, epoch=over)
        names = list(store.sizes())
        for name in names:
            store.remove(name)
        if not names:
            return
