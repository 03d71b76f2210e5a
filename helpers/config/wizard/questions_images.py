"""The wizard's questions about images and captions, with defaults from the images in the folder."""

import math
from functools import partial
from pathlib import Path

from helpers.config.datasets.file import read_datasets
from helpers.config.datasets.types import LocalDataset
from helpers.config.wizard.dataset_file import (
    TEXT_CACHE,
    entry_problem,
    image_folder,
    new_file,
    path_in_use,
    proposed_cache,
)
from helpers.config.wizard.flow import Chapter, Choice, Draft, Question
from helpers.config.wizard.machine import FolderPreview
from helpers.errors import UserError

PLACES = (1.0, 0.5, 0.25)
"""Training resolutions to offer, in megapixels."""

NEARLY = 0.9
MOST = 0.5
FEW = 0.2
SQUARE = 1.05
LATENT_BYTES_PER_PIXEL = 16 * 2 / 64
"""Sixteen channels of two bytes for each 8x8 pixels."""


def sight(draft: Draft) -> FolderPreview:
    """The summary of the folder, cached so that each folder is read once."""
    return draft.machine.look_at(image_folder(draft))


def sizes(draft: Draft) -> list[float]:
    """The sizes of the images, smallest first, in the unit of `resolution_type`."""
    measures = {"area": lambda w, h: w * h / 1e6, "pixel": min, "pixel_area": lambda w, h: math.sqrt(w * h)}
    measure = measures[draft["resolution_type"]]
    return sorted(measure(*size) for size in sight(draft).sizes)


def _what_is_there(draft: Draft) -> str:
    found, problems = read_datasets(draft.config())
    if found is None:
        return f"{path_in_use(draft)} has {len(problems)} mistakes, which bash train.sh names"
    return f"{path_in_use(draft)}, of {', '.join(dataset.id for dataset in found.images)}"


def _folder_of_before(draft: Draft) -> str:
    """The folder in the dataset file, else the only one in the `datasets` folder of the quickstart."""
    found, _ = read_datasets(draft.config())
    for dataset in found.images if found else ():
        if isinstance(dataset, LocalDataset):
            return str(dataset.instance_data_dir)
    folders = [path for path in (Path(draft["output_dir"]).expanduser() / "datasets").glob("*") if path.is_dir()]
    return str(folders[0]) if len(folders) == 1 else ""


def _folder_problem(draft: Draft, text: str) -> str:
    if not text:
        return "name the folder that holds the images"
    answered = draft.answered("image_folder", text)
    folder = image_folder(answered)
    if not folder.is_dir():
        return f"there is no folder {folder}"
    try:
        seen = sight(answered)
    except UserError as error:
        return str(error)
    if not seen.sizes:
        return f"there is no image in {folder}"
    return entry_problem("instance_data_dir", "image_folder", draft, text)


def _repeats_problem(draft: Draft, text: str) -> str:
    return "" if text.isdecimal() and text.isascii() else "use an integer of at least 0"


def _seen(draft: Draft) -> str:
    """A sentence about the sizes of the images."""
    seen = sight(draft)
    areas = sorted(width * height for width, height in seen.sizes)
    middle = areas[len(areas) // 2] / 1e6
    summary = f"{seen.images:,} images, half of them above {middle:.2g} megapixels"
    return f"{summary}, {seen.unreadable:,} that cannot be read." if seen.unreadable else f"{summary}."


def _share_below(draft: Draft, least: float) -> str:
    found = sizes(draft)
    below = sum(size < least for size in found)
    return f"{100 * below / len(found):.0f}% of the images are smaller" if below else "no image is smaller"


def _proposed_resolution(draft: Draft) -> str:
    found = sizes(draft)
    for place in PLACES:
        if sum(size < NEARLY * place for size in found) <= MOST * len(found):
            return str(place)
    return str(PLACES[-1])


def _resolutions(draft: Draft) -> tuple[Choice, ...]:
    if draft["resolution_type"] != "area":
        return ()
    edges = [round(math.sqrt(place * 1e6) / 64) * 64 for place in PLACES]
    return tuple(
        Choice(value=str(place), label=f"{place} megapixels, as {edge}x{edge}")
        for place, edge in zip(PLACES, edges, strict=True)
    )


def _is_square(size: tuple[int, int]) -> bool:
    return max(size) <= SQUARE * min(size)


def _why_crop(draft: Draft) -> str:
    shapes = [width / height for width, height in sight(draft).sizes]
    square = 100 * sum(map(_is_square, sight(draft).sizes)) / len(shapes)
    return (
        f"They are {min(shapes):.2f} to {max(shapes):.2f} times as wide as high, {square:.0f}% of them square. "
        "SD3 generates every aspect ratio, so keeping them loses nothing."
    )


def _proposed_crop(draft: Draft) -> str:
    found = sight(draft).sizes
    return "square-center" if all(map(_is_square, found)) else "keep"


def _has_small(draft: Draft) -> bool:
    return new_file(draft) and bool(draft["image_folder"]) and sizes(draft)[0] < MOST * float(draft["resolution"])


def _small_choices(draft: Draft) -> tuple[Choice, ...]:
    least = MOST * float(draft["resolution"])
    below, looked_at = sum(size < least for size in sizes(draft)), len(sizes(draft))
    leave = Choice(value=f"{least:g}", label="leave them out", note=f"{below} of {looked_at} looked at")
    enlarge = Choice(value="keep", label="enlarge them")
    return (leave, enlarge) if below <= FEW * looked_at else (enlarge, leave) if below < looked_at else (enlarge,)


def _why_captions(draft: Draft) -> str:
    seen = sight(draft)
    return (
        f"{seen.captioned:,} of {seen.images:,} images have a text file, and "
        f"{seen.telling_names:,} of {len(seen.sizes):,} names read like captions ({seen.example})."
    )


def _proposed_captions(draft: Draft) -> str:
    seen = sight(draft)
    if seen.captioned >= MOST * seen.images:
        return "textfile"
    return "filename" if seen.telling_names >= MOST * len(seen.sizes) else "instanceprompt"


def _megabytes(count: float) -> str:
    return f"about {count / 1e9:.1f} GB" if count >= 1e9 else f"about {max(1, round(count / 1e6))} MB"


def _why_latents(draft: Draft) -> str:
    seen = sight(draft)
    resolution = float(draft["resolution"])
    pixels = resolution * 1e6 if draft["resolution_type"] == "area" else resolution**2
    return (
        f"Each image is encoded once, {_megabytes(seen.images * pixels * LATENT_BYTES_PER_PIXEL)} in all. "
        "A relative path starts at the output folder; it must be outside the folder of images."
    )


IMAGES = Chapter(
    title="Your images",
    questions=(
        Question(
            name="dataset",
            own=True,
            title="There is a dataset file already. Keep it?",
            why=_what_is_there,
            choices=lambda draft: (
                Choice(value="keep", label="keep it as it is"),
                Choice(value="new", label="write a new one", note="a backup of the old one is kept"),
            ),
            when=lambda draft: path_in_use(draft).is_file(),
            proposal=lambda draft: "keep" if read_datasets(draft.config())[0] else "new",
        ),
        Question(
            name="image_folder",
            own=True,
            title="Which folder holds your images?",
            why="Only image headers are read now. Nothing is ever written, moved or deleted there.",
            when=new_file,
            proposal=_folder_of_before,
            problem=_folder_problem,
            folder=True,
        ),
        Question(
            name="resolution",
            title="Which training resolution?",
            why=lambda draft: (
                f"{_seen(draft)} SD3 was trained at 1 megapixel; 0.25 is four times as fast, for a first try."
                if draft["resolution_type"] == "area"
                else f"{_seen(draft)} In the unit of RESOLUTION_TYPE={draft['resolution_type']}."
            ),
            choices=_resolutions,
            note=lambda draft, value: _share_below(draft, float(value)),
            other="another size",
            when=new_file,
            stays=True,
            proposal=_proposed_resolution,
        ),
        Question(
            name="crop",
            own=True,
            title="How should images be cropped?",
            why=_why_crop,
            choices=lambda draft: (
                Choice(value="keep", label="keep the aspect ratio"),
                Choice(value="square-center", label="center crop to a square"),
                Choice(value="square-random", label="random crop to a square", note="for textures and styles"),
            ),
            when=new_file,
            proposal=_proposed_crop,
        ),
        Question(
            name="small_images",
            own=True,
            title="Some images are less than half that size. What to do with them?",
            why="Enlarged images are blurry, and the model learns that.",
            choices=_small_choices,
            when=_has_small,
        ),
        Question(
            name="captions",
            own=True,
            title="Where do the captions come from?",
            why=_why_captions,
            choices=lambda draft: (
                Choice(value="textfile", label="text files", note="IMG_1.txt next to IMG_1.jpg; one caption per line"),
                Choice(value="filename", label="file names", note="with spaces for underscores"),
                Choice(value="instanceprompt", label="one caption for all", note="for one subject or style"),
            ),
            when=new_file,
            proposal=_proposed_captions,
        ),
        Question(
            name="missing_captions",
            own=True,
            title="Some images have no text file. What to do with them?",
            why=lambda draft: f"{sight(draft).images - sight(draft).captioned:,} have none.",
            choices=lambda draft: (
                Choice(value="leave", label="leave them out", note="each is named when the run starts"),
                Choice(value="name", label="use the file name as caption"),
            ),
            when=lambda draft: (
                new_file(draft) and draft["captions"] == "textfile" and sight(draft).captioned < sight(draft).images
            ),
        ),
        Question(
            name="prompt_for_all",
            own=True,
            title="Which caption for all images?",
            why="A trigger word and its class: a photograph of mikesh, a gray cat.",
            when=lambda draft: new_file(draft) and draft["captions"] == "instanceprompt",
            problem=lambda draft, text: "" if text.strip() else "describe what the images show",
        ),
        Question(
            name="repeats",
            own=True,
            title="How many repeats per epoch?",
            why="0 shows each image once. More repeats help a small dataset next to larger ones.",
            when=new_file,
            proposal=lambda draft: "0",
            problem=_repeats_problem,
        ),
        Question(
            name="latent_cache",
            own=True,
            title="Where should encoded images be cached?",
            why=_why_latents,
            when=new_file,
            proposal=proposed_cache,
            problem=partial(entry_problem, "cache_dir_vae", "latent_cache"),
        ),
        Question(
            name="text_cache",
            own=True,
            title="Where should encoded captions be cached?",
            why="They are shared by all datasets; the same words are encoded once.",
            when=new_file,
            proposal=lambda draft: TEXT_CACHE,
            problem=partial(entry_problem, "instance_data_dir", "text_cache"),
        ),
    ),
)
