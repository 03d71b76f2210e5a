"""The dataset file made from the wizard's answers, and the file's own checks applied to an answer."""

import json
import os
import re
from pathlib import Path
from typing import Any

from helpers.config.datasets.file import FILE_NAME, dataset_file_path, read_entries
from helpers.config.wizard.flow import Draft

TEXT_CACHE = "cache/text"


def path_in_use(draft: Draft) -> Path:
    """The dataset file that the current settings use."""
    return dataset_file_path(draft.config())


def new_file(draft: Draft) -> bool:
    """Whether a dataset file is to be written."""
    return draft["dataset"] != "keep" or not path_in_use(draft).is_file()


def new_path(draft: Draft) -> Path:
    """Where a new dataset file goes: the path in the settings, else the output folder."""
    config = draft.config()
    named = config.data.data_backend_config
    return Path(named or Path(config.run.output_dir) / FILE_NAME).expanduser()


def dataset_text(draft: Draft) -> str:
    """The dataset file made from the answers."""
    return json.dumps(entries(draft), indent=2, ensure_ascii=False) + "\n"


def entries(draft: Draft) -> list[dict[str, Any]]:
    """The entries of that file."""
    folder = image_folder(draft)
    output = Path(draft["output_dir"]).expanduser().absolute()
    name = folder.relative_to(output) if folder.is_relative_to(output) else folder
    images: dict[str, Any] = {"id": dataset_id(draft), "type": "local", "instance_data_dir": str(name)}
    shape, _, style = draft["crop"].partition("-")
    images["crop"] = shape == "square"
    if images["crop"]:
        images |= {"crop_aspect": "square", "crop_style": style}
    if draft["small_images"] not in ("", "keep"):
        images["minimum_image_size"] = float(draft["small_images"])
    images["caption_strategy"] = draft["captions"]
    if draft["captions"] == "instanceprompt":
        images["instance_prompt"] = draft["prompt_for_all"]
    if draft["captions"] == "textfile" and draft["missing_captions"] == "name":
        images["caption_fallback"] = True
    images |= {"repeats": int(draft["repeats"] or 0), "cache_dir_vae": draft["latent_cache"] or proposed_cache(draft)}
    texts = {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True}
    return [images, texts | {"cache_dir": draft["text_cache"] or TEXT_CACHE}]


def image_folder(draft: Draft) -> Path:
    """The folder of images: relative to the working folder or, if it is not there, to the output folder."""
    named = Path(draft["image_folder"]).expanduser()
    in_output = Path(draft["output_dir"]).expanduser() / named
    return Path(os.path.normpath((in_output if not named.is_dir() and in_output.is_dir() else named).absolute()))


def dataset_id(draft: Draft) -> str:
    """An id for the dataset, made from its folder's name."""
    return re.sub(r"[^\w.-]+", "-", image_folder(draft).name).strip("-.") or "images"


def proposed_cache(draft: Draft) -> str:
    """The default folder of encoded images."""
    return f"cache/vae/{dataset_id(draft)}"


def entry_problem(key: str, name: str, draft: Draft, text: str) -> str:
    """The problem that the dataset file's own checks find in `key`, with `text` as the answer `name`; empty if none."""
    complete = draft.answered(name, text)
    _, problems = read_entries(entries(complete), config=complete.config(), file=new_path(complete).name)
    reasons = [f"{each.reason}: {each.fix}" for each in problems if each.option.endswith(f"key {key}")]
    return reasons[0] if reasons else ""
