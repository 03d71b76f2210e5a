"""Amounts and kinds of datasets that make no sense together are told of."""

from pathlib import Path

from helpers.config.datasets.checks import check_mixing
from helpers.config.datasets.entries import Entry
from tests.unit.config.test_datasets import entry, load, problems


def test_what_is_kept_back_is_not_among_what_is_trained_on(tmp_path: Path) -> None:
    found = load(tmp_path, [entry(tmp_path), entry(tmp_path, id="kept back", dataset_type="eval")])
    assert [dataset.id for dataset in found.images] == ["mine"]
    assert [dataset.id for dataset in found.eval] == ["kept back"]
    (problem,) = problems(tmp_path, [entry(tmp_path, dataset_type="eval")])
    assert "no entry names images to train on" in problem.reason
    (problem,) = problems(
        tmp_path, [entry(tmp_path), entry(tmp_path, id="kept back", dataset_type="eval", probability=0.5)]
    )
    assert problem.reason == "an eval dataset is never trained on"


def test_amounts_that_mean_nothing_are_told(tmp_path: Path) -> None:
    endless = entry(tmp_path, id="endless", ignore_epochs=True)
    assert load(tmp_path, [entry(tmp_path), endless]).images[1].ignore_epochs
    (problem,) = problems(tmp_path, [entry(tmp_path), endless | {"repeats": 1}])
    assert problem.option.endswith("entry endless, key repeats")


def test_new_crops_in_every_epoch_need_crops_that_chance_decides(tmp_path: Path) -> None:
    chance = {"crop": True, "crop_style": "random"}
    (images,) = load(tmp_path, [entry(tmp_path, vae_cache_clear_each_epoch=True, **chance)]).images
    assert images.vae_cache_clear_each_epoch
    (problem,) = problems(tmp_path, [entry(tmp_path, vae_cache_clear_each_epoch=True, crop=True)])
    assert problem.option.endswith("entry mine, key vae_cache_clear_each_epoch")
    assert "only random crops" in problem.reason


def test_only_a_lora_can_be_held_to_the_base(tmp_path: Path) -> None:
    said = entry(tmp_path, is_regularisation_data=True)
    assert load(tmp_path, [said]).images[0].is_regularisation_data
    images = [(Entry(file="f.json", name="mine", values=said), load(tmp_path, [said]).images[0])]
    (problem,) = check_mixing(images, model_type="full")
    assert "MODEL_TYPE=lora" in problem.fix
