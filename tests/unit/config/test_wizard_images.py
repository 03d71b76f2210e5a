"""What the wizard proposes from a look at the images, and the dataset file it writes."""

import json
from pathlib import Path

import pytest

from helpers.config.datasets.file import load_datasets
from tests.unit.config.wizard_people import folder_of_images, run_of, wizard


def test_a_dataset_file_that_is_there_is_kept_unless_a_new_one_is_wanted(here: Path) -> None:
    wizard({})
    file = here / "output" / "models" / "multidatabackend.json"
    before = file.read_text()
    person = wizard({"dataset": "keep"})
    assert "barns" in person.question("dataset").why and "image_folder" not in person.names
    assert file.read_text() == before and run_of().data.resolution == 1.0
    wizard({"dataset": "new", "crop": "square-center"})
    assert json.loads(file.read_text())[0]["crop_aspect"] == "square"
    (backup,) = file.parent.glob("multidatabackend.json.backup-*")
    assert backup.read_text() == before


def test_a_folder_that_would_hold_the_results_is_refused(here: Path) -> None:
    person = wizard({"image_folder": [".", "barns"]})
    assert "OUTPUT_DIR" in person.refused["image_folder"]


@pytest.mark.parametrize(
    ("sizes", "resolution", "crop"),
    [
        ([(1600, 1200)] * 3, "1.0", "keep"),
        ([(1024, 1024)] * 2 + [(1000, 1040)], "1.0", "square-center"),
        ([(800, 700)] * 3 + [(2000, 1000)], "0.5", "keep"),
        ([(300, 200), (90, 90)], "0.25", "keep"),
    ],
)
def test_sizes_and_shapes_are_proposed_from_what_is_seen(
    sizes: list[tuple[int, int]], resolution: str, crop: str, here: Path
) -> None:
    folder_of_images(here / "seen", *sizes)
    person = wizard({"image_folder": "seen"})
    assert (person.question("resolution").default, person.question("crop").default) == (resolution, crop)


def test_few_small_images_are_left_out_and_many_enlarged(here: Path) -> None:
    folder_of_images(here / "few", *[(1200, 900)] * 9, (300, 200))
    assert wizard({"image_folder": "few"}).question("small_images").default == "0.5"
    assert load_datasets(run_of()).images[0].minimum_image_size == 0.5
    folder_of_images(here / "many", (1200, 900), *[(300, 200)] * 9)
    person = wizard({"image_folder": "many", "dataset": "new", "resolution": "1.0"})
    assert person.question("small_images").default == "keep"
    assert load_datasets(run_of()).images[0].minimum_image_size is None


def test_captions_are_proposed_from_what_is_seen(here: Path) -> None:
    folder_of_images(here / "told", *[(90, 90)] * 4, texts=3)
    person = wizard({"image_folder": "told", "missing_captions": "name"})
    assert "3 of 4 images have a text file" in person.question("captions").why
    (dataset,) = load_datasets(run_of()).images
    assert (dataset.caption_strategy, dataset.caption_fallback) == ("textfile", True)
    folder_of_images(here / "numbered", (90, 90), name="DSC_000{}")
    wizard({"image_folder": "numbered", "dataset": "new", "prompt_for_all": ["", "a photo of sks"]})
    (dataset,) = load_datasets(run_of()).images
    assert (dataset.caption_strategy, dataset.instance_prompt) == ("instanceprompt", "a photo of sks")


def test_a_folder_in_the_output_folder_is_named_from_there(here: Path) -> None:
    folder_of_images(here / "out" / "datasets" / "cats", (90, 90))
    person = wizard({"output_dir": "out", "image_folder": []})
    assert person.question("image_folder").default == "out/datasets/cats"
    assert json.loads((here / "out" / "multidatabackend.json").read_text())[0]["instance_data_dir"] == "datasets/cats"
