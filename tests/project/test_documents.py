"""What the documents tell a person to click, copy and type is there and works."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel

from helpers.config.datasets.entries import (
    ACCEPTED_ONLY,
    EVERY_ENTRY,
    FROM_DATA_OPTIONS,
    LATER_IMAGE_KEYS,
    LATER_TEXT_KEYS,
)
from helpers.config.datasets.file import load_datasets
from helpers.config.datasets.types import (
    CsvDataset,
    HuggingFaceDataset,
    ImageDataset,
    LocalDataset,
    TableFile,
    TextEmbedsStore,
)
from helpers.config.env.launch import translated
from helpers.config.env.translate import env_names, translate
from helpers.config.files.webhook import read_webhook
from helpers.config.parse import known_names, parse_arguments
from helpers.config.train_config import all_options
from helpers.data.images.geometry import cut_rules, geometries
from helpers.data.types import Bucket, Size
from helpers.dataloader.sampler import SampleOrder
from helpers.training.checkpoint.compatibility import must_agree
from tests.project.documents import Block, anchors, blocks, documents, inline_code, links, section, table
from tests.project.sources import ROOT, name_of

DATALOADER = ROOT / "documentation" / "DATALOADER.md"
CHECKPOINTS = ROOT / "documentation" / "CHECKPOINTS.md"

FOLDERS = ("helpers", "config", "install", "documentation", "tests", "benchmarks")
# What a person makes, by following the documents.
MADE_BY_PERSON = (
    "config/config.env",
    "config/multidatabackend.json",
    "config/webhook.json",
    "config/user_prompt_library.json",
)
PROGRAMS = {"apt", "cd", "git", "hf", "mkdir", "pip", "poetry", "popd", "pushd", "source", "tensorboard", "uv", "wandb"}
MODULES_OF_OTHERS = {"venv"}
NEEDED = {"MODEL_NAME": "stabilityai/stable-diffusion-3-medium-diffusers", "MAX_NUM_STEPS": "10"}
ALONG = {"HUB_MODEL_NAME": "my-model"}
OF_AMAZON = ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "REGION", "ENDPOINT_URL", "PROFILE")
OF_PYTORCH = ("CUDA_VISIBLE_DEVICES", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
OTHER_CAPITALS = ("CRC_32", *OF_PYTORCH, *(f"AWS_{name}" for name in OF_AMAZON))


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_links_lead_somewhere(document: Path) -> None:
    lost: list[str] = []
    for link in links(document):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (document.parent / path).resolve() if path else document
        if not target.exists() or (anchor and anchor not in anchors(target)):
            lost.append(link)
    assert not lost, f"{name_of(document)} links to what is not there: {lost}"


@pytest.mark.parametrize("block", [each for each in blocks("json") if each.text.startswith("[")], ids=str)
def test_dataset_files_are_read_as_they_stand(block: Block, tmp_path: Path) -> None:
    entries = json.loads(block.text)
    for entry in entries:
        for folder in (entry[key] for key in ("instance_data_dir", "dataset_name") if key in entry):
            (tmp_path / folder).mkdir(parents=True)
        for file in filter(None, (entry.get("csv_file"), entry.get("parquet", {}).get("path"))):
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / file).touch()
    (tmp_path / "multidatabackend.json").write_text(block.text)
    read = load_datasets(configured(tmp_path))
    images = [each["id"] for each in entries if each.get("dataset_type", "image") in ("image", "eval")]
    assert [dataset.id for dataset in read.all_images] == images


@pytest.mark.parametrize("block", [each for each in blocks("json") if each.text.startswith("{")], ids=str)
def test_webhook_files_are_read_as_they_stand(block: Block, tmp_path: Path) -> None:
    (tmp_path / "webhook.json").write_text(block.text)
    assert not read_webhook(tmp_path / "webhook.json")[1]


@pytest.mark.parametrize("block", blocks("bash"), ids=str)
def test_commands_name_what_is_there(block: Block) -> None:
    subprocess.run(["bash", "-n"], input=block.text, text=True, check=True)
    for line in block.text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "export":
            assert _can_be_run(words), f"{block}: {line}"


def _can_be_run(words: list[str]) -> bool:
    program, *rest = words
    program = program.removeprefix(".venv/bin/")
    if program == "bash":
        return (ROOT / rest[0]).is_file() and all((ROOT / word).exists() for word in rest[1:] if "/" in word)
    if program == "cp":
        return (ROOT / rest[0]).is_file() and rest[1] in MADE_BY_PERSON
    if program != "python":
        return program in PROGRAMS
    if rest[0] == "-m":
        return rest[1] in MODULES_OF_OTHERS or (ROOT / f"{rest[1].replace('.', '/')}.py").is_file()
    return rest == ["--version"] or (ROOT / rest[0]).is_file()


@pytest.mark.parametrize("commented", [False, True], ids=["as it stands", "with what is commented out"])
@pytest.mark.parametrize("block", [each for each in blocks("bash") if "export " in each.text], ids=str)
def test_env_files_are_read_as_they_stand(
    block: Block, commented: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config").mkdir()
    Path("config/accelerate").symlink_to(ROOT / "config/accelerate")
    for name in ("webhook.json", "user_prompt_library.json", "lycoris_config.json"):
        shutil.copy(ROOT / "config" / f"{name}.example", f"config/{name}")
    text = block.text.replace("#export ", "export ") if commented else block.text
    given = "".join(f"export {name}={value}\n" for name, value in NEEDED.items())
    Path("config.env").write_text(given + text)
    translation = translated(Path("config.env"), flags=[])
    assert not translation.exports, f"{block} sets names that nobody reads"


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_python_compiles(block: Block) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_settings_in_the_text_are_settings(document: Path) -> None:
    names, wrong = known_names(), []
    for code in inline_code(document):
        if re.fullmatch(r"--[a-z]\w*", code) and code[2:] not in (*names.options, *names.old, "help"):
            wrong.append(code)
        if re.fullmatch(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+", code) and code not in (*env_names(), *OTHER_CAPITALS):
            wrong.append(code)
        if re.fullmatch(r"(--[a-z]\w*|[A-Z][A-Z0-9_]*)=\S+", code) and not _is_accepted(code):
            wrong.append(code)
    assert not wrong, f"{name_of(document)}: {wrong}"


def _is_accepted(setting: str) -> bool:
    """Whether it is of use to a LoRA's run, or to one of the model itself."""
    return any(_is_accepted_with(setting, NEEDED | ALONG | {"MODEL_TYPE": kind}) for kind in ("lora", "full"))


def _is_accepted_with(setting: str, said: dict[str, str]) -> bool:
    if setting.startswith("--"):
        return not translate(said, file="a document", arguments=[setting]).problems
    name, _, value = setting.partition("=")
    said = said | {name: shlex.split(value)[0]}
    return name in env_names() and not translate(said, file="a document", arguments=[]).problems


@pytest.mark.parametrize("document", documents(), ids=name_of)
def test_files_in_the_text_are_there(document: Path) -> None:
    named = [code for code in inline_code(document) if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./-]*", code)]
    lost = [path for path in named if path not in MADE_BY_PERSON and not (ROOT / path).exists()]
    assert not lost, f"{name_of(document)} names {lost}"


def test_the_tree_is_the_one_that_is_there() -> None:
    (tree,) = (block for block in blocks("text") if block.document.name == "README.md")
    parent = ROOT
    for line in tree.text.splitlines():
        name = line.split()[0]
        path = parent / name if line.startswith(" ") else ROOT / name
        assert path.exists(), f"{tree}: {line}"
        if not line.startswith(" "):
            parent = path


def test_the_keys_of_a_data_set_are_told_with_their_defaults() -> None:
    told = {row[0].strip("`"): row[1] for row in table(DATALOADER, "Keys of images")}
    everywhere = {row[0].strip("`") for row in table(DATALOADER, "Keys of every entry")}
    assert told.keys() == (LocalDataset.model_fields.keys() | set(ACCEPTED_ONLY)) - {"id"}
    assert everywhere | {"disable"} == {"id", *EVERY_ENTRY}
    wrong = {
        key: (told[key], default)
        for key, field in LocalDataset.model_fields.items()
        if key != "id" and told[key] != (default := _default_cell(key, field))
    }
    assert not wrong, f"told and true: {wrong}"


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("Images by URL", CsvDataset),
        ("Images in parquet files", HuggingFaceDataset),
        ("A metadata table", TableFile),
    ],
)
def test_the_keys_of_one_kind_are_told_with_their_defaults(heading: str, kind: type[BaseModel]) -> None:
    told = {row[0].strip("`"): row[1] for row in table(DATALOADER, heading)}
    own = {key: field for key, field in kind.model_fields.items() if key not in ImageDataset.model_fields}
    differing = {"caption_strategy": kind.model_fields["caption_strategy"]} if "caption_strategy" in told else {}
    places = {"csv_cache_dir": "`cache/downloads/ID`"}
    assert told == {key: places.get(key) or _own_default_cell(field) for key, field in (own | differing).items()}


def _own_default_cell(field: Any) -> str:
    if field.is_required():
        return "required"
    said = str(field.default).lower() if isinstance(field.default, bool) else field.default
    return "none" if said is None else f"`{said}`"


def test_the_keys_of_the_text_cache_are_told() -> None:
    told = {row[0].strip("`") for row in table(DATALOADER, "Keys of the text cache")}
    assert told == (TextEmbedsStore.model_fields.keys() | {"default"}) - {"id"}


def _default_cell(key: str, field: Any) -> str:
    """How the table says a key's default."""
    options = {option.name: option.default for option in all_options()}
    if key == "cache_dir_vae":
        return "`cache/vae/ID`"
    if field.is_required():
        return "required"
    is_option = key in (*FROM_DATA_OPTIONS, "vae_batch_size", "write_batch_size")
    value = options[key] if is_option else field.default
    words = {None: "none", "": "empty", (): "`[]`"}
    said = words[value] if value in words else f"`{str(value).lower() if isinstance(value, bool) else value}`"
    return f"option, {said}" if is_option else said


def test_what_is_not_supported_yet_is_listed() -> None:
    told = section(DATALOADER, "Not supported yet")
    missing = [key for key in (*LATER_IMAGE_KEYS, *LATER_TEXT_KEYS) if f"`{key}`" not in told]
    assert not missing


@pytest.mark.parametrize("row", table(DATALOADER, "Cropping and aspect buckets", number=1), ids=lambda row: row[0])
def test_the_examples_of_cuts_are_true(row: list[str]) -> None:
    sizes = [(3000, 2000), (4000, 3000), (1920, 1080), (800, 600)]
    cuts = _cuts(row[0].strip("`"), sizes=sizes)
    assert [f"{cut[4] - cut[2]}×{cut[5] - cut[3]}" for cut in cuts] == row[1:]


@pytest.mark.parametrize("row", table(DATALOADER, "Cropping and aspect buckets", number=0), ids=lambda row: row[0])
def test_the_edges_of_squares_are_true(row: list[str]) -> None:
    (cut,) = _cuts(f'"crop": true, "resolution": {row[0]}', sizes=[(5000, 4000)])
    assert (cut[4] - cut[2], cut[5] - cut[3]) == (int(row[1]), int(row[1]))


@pytest.mark.parametrize("row", table(DATALOADER, "Crop from a larger image"), ids=lambda row: row[0])
def test_the_examples_of_shrinking_are_true(row: list[str]) -> None:
    more = "" if row[0] == "nothing more" else ", " + row[0].strip("`")
    cuts = _cuts('"crop": true' + more, sizes=[(3000, 2000), (1920, 1080)])
    assert [f"{cut[0]}×{cut[1]}" for cut in cuts] == row[1:]


def _cuts(settings: str, *, sizes: list[tuple[int, int]]) -> list[list[int]]:
    """The cuts of images of these sizes, in a dataset that says `settings`, JSON without its braces."""
    said = {"id": "example", "instance_data_dir": Path(), "cache_dir_vae": Path(), **json.loads(f"{{{settings}}}")}
    rules = cut_rules(LocalDataset.model_validate(said))
    return geometries(np.array(sizes), rules=rules, draws=np.zeros((0, 3))).tolist()


def test_the_example_of_small_buckets_is_true() -> None:
    assert "`TRAIN_BATCH_SIZE=4`" in section(DATALOADER, "Small buckets")
    for bucket, batches, _ in table(DATALOADER, "Small buckets"):
        count, width, height = map(int, re.findall(r"\d+", bucket))
        images = Bucket(dataset_id="example", size=Size(width, height), images=np.arange(count), repeats=0)
        order = SampleOrder([images], seed=42, batch_size=4, world_size=1)
        assert ", ".join(str(order.batches_in_epoch(epoch)) for epoch in range(4)) == batches


def test_what_must_agree_on_resume_is_told() -> None:
    (refused,) = (row[1] for row in table(CHECKPOINTS, "Settings you can change") if row[0].startswith("refused"))
    assert [name.strip("`") for name in refused.replace("base model's weights", "base model").split(", ")] == [
        *must_agree()
    ]


def configured(output_dir: Path) -> Any:
    """A run's options with this output folder."""
    flags = [f"--pretrained_model_name_or_path={NEEDED['MODEL_NAME']}", "--max_train_steps=10"]
    return parse_arguments([*flags, f"--output_dir={output_dir}"])
