"""The dataset file that the wizard's answers make, and what the file's own checks say of an answer."""

import json
import os
import re
from pathlib import Path
from typing import Any

from helpers.config.datasets.file import FILE_NAME, dataset_file_path, read_entries
from helpers.config.wizard.flow import Draft

TEXT_CACHE = "cache/text"


def path_in_use(draft: Draft) -> Path:
    """The dataset file that the settings lead to now."""
    return dataset_file_path(draft.config())


def new_file(draft: Draft) -> bool:
    """Whether a dataset file is to be written."""
    return draft["dataset"] != "keep" or not path_in_use(draft).is_file()


def new_path(draft: Draft) -> Path:
    """Where a new dataset file goes: the place that the settings name, else the output folder."""
    config = draft.config()
    named = config.data.data_backend_config
    return Path(named or Path(config.run.output_dir) / FILE_NAME).expanduser()


def dataset_text(draft: Draft) -> str:
    """The dataset file that the answers make."""
    return json.dumps(entries(draft), indent=2, ensure_ascii=False) + "\n"


def entries(draft: Draft) -> list[dict[str, Any]]:
    """The same as a list of entries."""
    folder = image_folder(draft)
    output = Path(draft["output_dir"]).expanduser().absolute()
    name = folder.relative_to(output) if folder.is_relative_to(output) else folder
    images: dict[str, Any] = {"id": dataset_id(draft), "type": "local", "instance_data_dir": str(name)}
    shape, _, style = draft["cut"].partition("-")
    images["crop"] = shape == "square"
    if images["crop"]:
        images |= {"crop_aspect": "square", "crop_style": style}
    if draft["small"] not in ("", "keep"):
        images["minimum_image_size"] = float(draft["small"])
    images["caption_strategy"] = draft["captions"]
    if draft["captions"] == "instanceprompt":
        images["instance_prompt"] = draft["prompt_for_all"]
    if draft["captions"] == "textfile" and draft["unsaid"] == "name":
        images["caption_fallback"] = True
    images |= {"repeats": int(draft["repeats"] or 0), "cache_dir_vae": draft["latent_cache"] or proposed_cache(draft)}
    texts = {"id": "text-embeds", "type": "local", "dataset_type": "text_embeds", "default": True}
    return [images, texts | {"cache_dir": draft["text_cache"] or TEXT_CACHE}]


def image_folder(draft: Draft) -> Path:
    """The folder of images, from the working folder or, where it is not there, from the output folder."""
    said = Path(draft["image_folder"]).expanduser()
    in_output = Path(draft["output_dir"]).expanduser() / said
    return Path(os.path.normpath((in_output if not said.is_dir() and in_output.is_dir() else said).absolute()))


def dataset_id(draft: Draft) -> str:
    """A name for the dataset, made of its folder's."""
    return re.sub(r"[^\w.-]+", "-", image_folder(draft).name).strip("-.") or "images"


def proposed_cache(draft: Draft) -> str:
    """Where encoded images are kept unless somebody says otherwise."""
    return f"cache/vae/{dataset_id(draft)}"


def entry_problem(key: str, name: str, draft: Draft, text: str) -> str:
    """What the dataset file's own checks say of the entries' `key`, with `text` as the answer `name`."""
    whole = draft.answered(name, text)
    _, problems = read_entries(entries(whole), config=whole.config(), file=new_path(whole).name)
    reasons = [f"{each.reason}: {each.fix}" for each in problems if each.option.endswith(f"key {key}")]
    return reasons[0] if reasons else ""
