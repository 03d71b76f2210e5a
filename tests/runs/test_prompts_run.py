"""A library's prompts are drawn each with its own settings, when they are due and when somebody asks."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from helpers.training import loop
from tests.runs.harness import SmallRun, draw_set, same

LIBRARY = {
    "a cat": "a cat in the snow",
    "dog": {"prompt": "a dog", "negative_prompt": "blur", "seed": 3, "resolution": "96x64", "guidance": 5, "steps": 1},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_pipeline: Path) -> SmallRun:
    found = SmallRun(tmp_path_factory.mktemp("prompts"), tiny_pipeline)
    draw_set(found.output / "datasets" / "colors")
    return found


def headers(folder: Path) -> dict[str, dict[str, Any]]:
    return {file.name: json.loads(Image.open(file).info["simpletuner"]) for file in sorted(folder.iterdir())}


def test_each_prompt_is_drawn_its_own_way_when_it_is_due(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    library = run.folder / "library.json"
    library.write_text(json.dumps(LIBRARY))
    assert run.start(resume_from_checkpoint="none") == 0
    plain = run.weights() | run.remembered(6)

    take_step = loop.take_step

    def taken(*arguments: Any, **named: Any) -> Any:
        if named["state"].step == 2:  # while the third step is taken
            (run.output / "validate_now").touch()
        return take_step(*arguments, **named)

    with monkeypatch.context() as patched:
        patched.setattr(loop, "take_step", taken)
        assert (
            run.start(
                resume_from_checkpoint="none",
                user_prompt_library=library,
                num_validation_images=2,
                validation_steps=100,
                validation_epochs=2,
                validation_seed=7,
            )
            == 0
        )
    drawn = {folder.name for folder in (run.output / "validation_images").iterdir()}
    # Four images a step of seven: the fourth step ends the second epoch. The sixth is the last.
    assert drawn == {"step_0", "step_3", "step_4", "step_6"}
    assert not (run.output / "validate_now").exists()
    found = headers(run.output / "validation_images" / "step_4")
    assert len(found) == 6
    dog = found["dog_96x64_seed3.png"]
    assert "dog_96x64_seed4.png" in found
    assert (dog["guidance"], dog["inference_steps"], dog["negative_prompt"]) == (5, 1, "blur")
    assert {"unconditional_64x64_seed7.png", "unconditional_64x64_seed8.png"} < found.keys()
    cats = [said for name, said in found.items() if name.startswith("a-cat-")]
    assert [(cat["prompt"], cat["seed"], cat["guidance"]) for cat in cats] == [
        ("a cat in the snow", 7, 3.0),
        ("a cat in the snow", 8, 3.0),
    ]
    assert same(plain, run.weights() | run.remembered(6))


def test_the_built_in_library_and_no_image_without_a_prompt(run: SmallRun) -> None:
    how = {"max_train_steps": 1, "checkpointing_steps": 1, "resume_from_checkpoint": "none"}
    more = {"validation_prompt_library": True, "validation_disable_unconditional": True, "validation_guidance": 1}
    assert run.start(**how, **more, validation_num_inference_steps=1, output_dir=run.output) == 0
    found = headers(run.output / "validation_images" / "step_1")
    assert len(found) == 12
    assert all(said["prompt"] for said in found.values())


def test_a_slip_in_the_library_is_told_with_all_others(run: SmallRun, capsys: pytest.CaptureFixture[str]) -> None:
    library = run.folder / "slips.json"
    library.write_text('{"cat": {"promt": "a cat"}}')
    assert run.start(user_prompt_library=library, validation_resolution="100x100", validation_skip_layers="one") == 1
    said = capsys.readouterr().err
    assert all(each in said for each in ("did you mean prompt?", "100", "VALIDATION_SKIP_LAYERS"))
