"""Finds the validation images that a model card shows, with the words they were drawn from."""

import json
from dataclasses import dataclass
from pathlib import Path

FOLDER = "validation_images"
PNG_ENTRY = "simpletuner"
"""The entry of a PNG's header that says what the image was drawn from."""

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class CardImage:
    """An image in the card. path: within the output folder, as in the repository."""

    path: str
    prompt: str


def last_images(output_dir: Path, *, step: int) -> tuple[CardImage, ...]:
    """The first few images of the last step up to `step` that has any; of the untrained base none."""
    by_step = {
        int(folder.name.removeprefix("step_")): folder
        for folder in (output_dir / FOLDER).glob("step_*")
        if folder.name.removeprefix("step_").isdecimal()
    }
    for last in sorted((each for each in by_step if 0 < each <= step), reverse=True):
        files = sorted(by_step[last].glob("*.png"))[:SHOWN]
        if files:
            return tuple(
                CardImage(path=file.relative_to(output_dir).as_posix(), prompt=_prompt_of(file)) for file in files
            )
    return ()


def _prompt_of(file: Path) -> str:
    from PIL import Image

    with Image.open(file) as image:
        return str(json.loads(image.info.get(PNG_ENTRY, "{}")).get("prompt", ""))
