"""The text of a model card: metadata for the hub, validation images, and what a reader needs to use the model."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from urllib.parse import quote

from helpers.config.files.prompt_library import parse_validation_sizes
from helpers.config.option import written
from helpers.config.options.model import WITHOUT
from helpers.config.options.output import COMFYUI_FILE
from helpers.reporting.events import RunStarted
from helpers.reporting.publish.license import UNKNOWN_ID, License

MARK = "<!-- Written by SimpleTuner "
"""What the card of any version begins with, after its metadata."""

WRITTEN_BY = f"{MARK}at each checkpoint and at the end of a run; changes made here are lost. -->"

# Settings that help a reader; none of them can contain a path or a secret.
SETTINGS_SHOWN: Mapping[str, tuple[str, ...]] = {
    "lora": ("lora_rank", "lora_alpha", "lora_dropout", "lora_target", "use_dora", "use_rslora"),
    "full": ("layer_freeze_strategy", "train_modules", "freeze_modules"),
    "optimizer": ("optimizer", "learning_rate", "lr_scheduler", "lr_warmup_steps", "max_grad_norm"),
    "run": ("train_batch_size", "gradient_accumulation_steps", "caption_dropout_probability", "seed"),
    "objective": ("timestep_sampling", "flow_shift", "loss_weighting", "loss_type"),
    "precision": ("mixed_precision", "base_model_precision"),
    "text": ("tokenizer_max_length", "sd3_t5_mask_behaviour", "train_text_encoder"),
    "ema": ("use_ema", "ema_decay"),
    "data": ("resolution", "resolution_type"),
}
# Tested by `tests/elsewhere/diffusers_versions.py`.
OLDEST_DIFFUSERS = "0.32"
WITHOUT_T5 = "It was trained without T5: zeros take its place, as in diffusers when `text_encoder_3` is None."
URL_MARKS = "/:?#=&%"
ONLY_FOR = {"lora": "lora", "full": "full"}


FOLDER = "validation_images"
PNG_ENTRY = "simpletuner"
"""The entry of a PNG's header that holds the prompt and the settings of the image."""

SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class CardImage:
    """An image in the card. path: relative to the output folder, and to the repository."""

    path: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class CardContext:
    """What a model card describes. step: optimizer steps done. complete: whether the final weights are written."""

    run: RunStarted
    license: License
    step: int
    complete: bool
    images: tuple[CardImage, ...]
    note: str
    repository: str

    @property
    def base_is_here(self) -> bool:
        """Whether the base is a local folder or file, whose path must not be published."""
        return Path(self.run.base_model).expanduser().exists()

    @property
    def base(self) -> str:
        """The base's hub id, or its folder's or file's name."""
        return Path(self.run.base_model).expanduser().resolve().name if self.base_is_here else self.run.base_model

    @property
    def title(self) -> str:
        return self.repository.rpartition("/")[2] or self.run.output_dir.resolve().name

    @property
    def is_lora(self) -> bool:
        return self.run.model_type == "lora"

    @property
    def is_without_t5(self) -> bool:
        return self.run.settings.get("model", {}).get("pretrained_t5_model_name_or_path") == WITHOUT

    @property
    def is_lycoris(self) -> bool:
        return self.is_lora and self.run.settings.get("lora", {}).get("lora_type") == "lycoris"


def card_text(card: CardContext) -> str:
    """The model card: Markdown with YAML metadata in front."""
    chapters = (
        f"# {_plain(card.title)}",
        card.note,
        _what_it_is(card),
        _progress(card),
        _images(card),
        *((_in_diffusers(card), _in_comfyui(card)) if card.complete else ()),
        _data(card),
        _settings(card),
        _license(card),
    )
    return "\n\n".join((_metadata(card), WRITTEN_BY, *filter(None, chapters))) + "\n"


def _metadata(card: CardContext) -> str:
    """The YAML front matter that the hub reads."""
    from huggingface_hub import ModelCardData

    relation = "adapter" if card.is_lora else "finetune"
    tags = ("text-to-image", "diffusers", card.run.hub_tag, "simpletuner", card.run.model_type)
    metadata = ModelCardData(
        license=card.license.identifier,
        license_name=card.license.name or None,
        license_link=card.license.link or None,
        base_model=None if card.base_is_here else card.base,
        base_model_relation=None if card.base_is_here else relation,
        library_name="diffusers",
        pipeline_tag="text-to-image",
        tags=[tag for tag in tags if tag],
    )
    return f"---\n{metadata.to_yaml()}\n---"


def _what_it_is(card: CardContext) -> str:
    name = _plain(card.base)
    base = f"<code>{name}</code>" if card.base_is_here else f"[{name}](https://huggingface.co/{quote(card.base)})"
    variant = f", {_plain(card.run.base_variant)}" if card.run.base_variant else ""
    trained = f"{_plain(card.run.trained)}: " if card.run.trained else ""
    parameters = f"{card.run.trainable_parameters:,} trainable parameters"
    return f"Trained from {base}{variant} with SimpleTuner: {trained}{parameters}."


def _progress(card: CardContext) -> str:
    if card.complete:
        return f"Trained for {card.step:,} steps."
    return f"The run is at step {card.step:,} of {card.run.total_steps:,}: the final weights are not here yet."


def _images(card: CardContext) -> str:
    if not card.images:
        return ""
    rows = (f"| ![]({quote(each.path)}) | {_plain(each.prompt) or '(no prompt)'} |" for each in card.images)
    return "\n".join(
        ("## Images", "", "Generated by this model, not cherry-picked.", "", "| | prompt |", "|---|---|", *rows)
    )


def _in_diffusers(card: CardContext) -> str:
    validation = card.run.settings.get("validation", {})
    width, height = parse_validation_sizes(str(validation.get("validation_resolution", "1024x1024")))[0]
    seed = str(validation.get("validation_seed") or "42")
    prompt = next((each.prompt for each in card.images if each.prompt), "a photograph of a lighthouse")
    length = card.run.settings.get("text", {}).get("tokenizer_max_length", 256)
    lines = (
        "import torch",
        f"from diffusers import {card.run.pipeline_class}",
        *_imports(card),
        "",
        'device = "cuda" if torch.cuda.is_available() else "cpu"',
        *_loading(card),
        "image = pipeline(",
        f"    prompt={prompt!r},",
        f"    negative_prompt={str(validation.get('validation_negative_prompt', ''))!r},",
        f"    width={width},",
        f"    height={height},",
        f"    num_inference_steps={validation.get('validation_num_inference_steps', 28)},",
        f"    guidance_scale={validation.get('validation_guidance', 5.0)},",
        f"    max_sequence_length={length},",
        f'    generator=torch.Generator("cpu").manual_seed({seed}),',
        ").images[0]",
        'image.save("image.png")',
    )
    return "\n".join(
        (
            "## In diffusers",
            "",
            f"It needs diffusers {OLDEST_DIFFUSERS} or newer{' and lycoris-lora' if card.is_lycoris else ''}. "
            f"`max_sequence_length={length}` is the length it was trained with; diffusers' own default is 256.",
            *((WITHOUT_T5,) if card.is_without_t5 else ()),
            "",
            "```python",
            *lines,
            "```",
        )
    )


def _imports(card: CardContext) -> Iterator[str]:
    """Further imports for adapters that diffusers cannot load (`pip install lycoris-lora`)."""
    if card.is_lycoris and card.repository:
        yield "from huggingface_hub import hf_hub_download"
    if card.is_lycoris:
        yield "from lycoris import create_lycoris_from_weights"


def _loading(card: CardContext) -> Iterator[str]:
    """The lines that load the pipeline: from the hub, or from the folder of this card if it is not published."""
    model = card.base if card.is_lora else card.repository or card.run.result
    if card.is_lora and card.base_is_here:
        yield "# Replace this with the path of the base model."
    without = "text_encoder_3=None, tokenizer_3=None, " if card.is_without_t5 else ""
    arguments = f"{model!r}, {without}torch_dtype=torch.bfloat16"
    yield f"pipeline = {card.run.pipeline_class}.from_pretrained({arguments}).to(device)"
    if card.is_lycoris:
        downloaded = f"hf_hub_download({card.repository!r}, {card.run.result!r})"
        yield f"weights = {downloaded if card.repository else repr(card.run.result)}"
        yield "network, _ = create_lycoris_from_weights(1.0, weights, pipeline.transformer)"
        yield "network.apply_to()"
        yield "network.to(device)"
    elif card.is_lora:
        yield f"pipeline.load_lora_weights({card.repository or '.'!r}, weight_name={card.run.result!r})"


def _in_comfyui(card: CardContext) -> str:
    if card.is_lora:
        exported = card.run.settings.get("export", {}).get("export_comfyui", False)
        file = COMFYUI_FILE if exported else card.run.result
        copy = f"cp {file} {shlex.quote(f'ComfyUI/models/loras/{card.title}.safetensors')}"
        trained_text = card.run.settings.get("text", {}).get("train_text_encoder", False)
        node = "Load LoRA" if trained_text else "LoraLoaderModelOnly"
        how = f"Load {_plain(card.base)} as usual, and put the node *{node}* between it and the sampler."
    else:
        folder = "" if card.repository else f"{card.run.result}/"
        weights = f"{folder}transformer/diffusion_pytorch_model.safetensors"
        copy = f"cp {weights} {shlex.quote(f'ComfyUI/models/diffusion_models/{card.title}.safetensors')}"
        how = f"Load it with the node *Load Diffusion Model*, and the VAE and text encoders of {_plain(card.base)}."
    return "\n".join(("## In ComfyUI", "", "```bash", copy, "```", "", how))


def _data(card: CardContext) -> str:
    rows = (f"| {_plain(name)} | {count:,} |" for name, count in card.run.datasets.items())
    return "\n".join(("## Trained on", "", "| dataset | images |", "|---|---|", *rows))


def _settings(card: CardContext) -> str:
    rows = (
        f"| {name} | {_plain(written(values[name]))} |"
        for group, names in SETTINGS_SHOWN.items()
        if ONLY_FOR.get(group, card.run.model_type) == card.run.model_type
        for values in (card.run.settings.get(group, {}),)
        for name in names
        if values.get(name) not in (None, "")
    )
    return "\n".join(("## Settings", "", "| setting | value |", "|---|---|", *rows))


def _license(card: CardContext) -> str:
    license = card.license
    if license.identifier == UNKNOWN_ID:
        text = "Its license is the base model's, which is not stated here: look it up before you share this model."
    else:
        name = _plain(license.name or license.identifier)
        link = f"[{name}]({quote(license.link, safe=URL_MARKS)})" if license.link else name
        text = f"Its license is the base model's: {link}."
    return f"## License\n\n{text}"


def _plain(text: str) -> str:
    """`text` on one line, so that neither HTML nor Markdown in it has an effect, in a table's cell either."""
    text = escape(text, quote=False)
    for mark in "\\|`*_[]":
        text = text.replace(mark, f"\\{mark}")
    return " ".join(text.split())


def last_images(output_dir: Path, *, step: int) -> tuple[CardImage, ...]:
    """The first few images of the latest step up to `step` that has any, except the base model's."""
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
