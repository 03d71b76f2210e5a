"""The types of entries in the dataset file, and their keys; unknown keys and values of another type are errors."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from helpers.config.datasets.caption_filters import read_filters
from helpers.config.option import MAX_BATCH, MAX_NUMBER

OUTPUT_DIR = "output_dir"
"""The key of the validation context that names the folder relative paths start at."""


def _absolute(value: Any, info: ValidationInfo) -> Any:
    """The absolute path of `value`."""
    if isinstance(value, str) and value:
        start = (info.context or {}).get(OUTPUT_DIR, Path.cwd())
        return Path(start / Path(value).expanduser()).absolute()
    return value


def _folder_or_name(value: Any, info: ValidationInfo) -> Any:
    """The folder of that name if there is one, else the name."""
    path = _absolute(value, info)
    return str(path) if isinstance(path, Path) and path.is_dir() else value


def _american(value: Any) -> Any:
    return "center" if value == "centre" else value


def _joined(value: Any) -> Any:
    return "instanceprompt" if value == "instance_prompt" else value


def _discovered(value: Any) -> Any:
    return "discovery" if value == "json" else value


def _filters(value: Any, info: ValidationInfo) -> Any:
    try:
        return read_filters(value, start=(info.context or {}).get(OUTPUT_DIR, Path.cwd()))
    except ValueError as error:
        raise PydanticCustomError("caption_filter_list", "{why}", {"why": str(error)}) from error


Folder = Annotated[Path, BeforeValidator(_absolute)]


def _name(value: Any) -> Any:
    if isinstance(value, str) and (value in (".", "..") or not ID.fullmatch(value)):
        raise PydanticCustomError("id", "a name of at most 100 characters, without / or \\")
    return value


ID = re.compile(r"[^/\\\x00-\x1f]{1,100}")
Name = Annotated[str, BeforeValidator(_name)]
"""An id, which names files and folders."""

Positive = Annotated[float, Field(gt=0, le=MAX_NUMBER)]
Count = Annotated[int, Field(ge=1, le=MAX_NUMBER)]


class ImageDataset(BaseModel):
    """The keys of every dataset of images; defaults come from the options.

    Sizes (`resolution`, `minimum_image_size`, …) are in the unit of `resolution_type`.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    caption_strategies: ClassVar[tuple[str, ...]] = ("filename", "textfile", "instanceprompt")
    metadata_backends: ClassVar[tuple[str, ...]] = ("discovery",)
    brings_captions: ClassVar[bool] = False
    """Whether captions come with the images, so that the option `caption_strategy` is for other datasets."""

    id: Name = Field(min_length=1)
    cache_dir_vae: Folder
    crop: bool = False
    crop_aspect: Literal["square", "preserve", "random", "closest"] = "square"
    crop_style: Annotated[Literal["center", "random", "corner", "face"], BeforeValidator(_american)] = "center"
    flip: bool = False
    vae_cache_clear_each_epoch: bool = False
    crop_aspect_buckets: tuple[Positive, ...] = Field(default=(), strict=False)
    resolution: Positive = 1.0
    resolution_type: Literal["area", "pixel", "pixel_area"] = "area"
    minimum_image_size: Annotated[float, Field(ge=0, le=MAX_NUMBER)] | None = None
    maximum_image_size: Positive | None = None
    target_downsample_size: Positive | None = None
    aspect_bucket_alignment: Annotated[int, Field(ge=16, le=4096, multiple_of=16)] = 64
    aspect_bucket_rounding: Annotated[int, Field(ge=1, le=9)] = 2
    repeats: Annotated[int, Field(ge=0, le=MAX_NUMBER)] = 0
    probability: Annotated[float, Field(ge=0.0001, le=100)] = 1.0
    ignore_epochs: bool = False
    max_num_samples: Count | None = None
    is_regularisation_data: bool = False
    caption_strategy: Annotated[str, BeforeValidator(_joined)] = "filename"
    instance_prompt: str | None = None
    prepend_instance_prompt: bool = False
    only_instance_prompt: bool = False
    caption_fallback: bool = False
    caption_shuffle: bool = False
    caption_shuffle_count: Annotated[int, Field(ge=1, le=1000)] = 4
    caption_keep_tokens: Annotated[int, Field(ge=0, le=MAX_NUMBER)] = 0
    caption_separator: str = Field(default=",", min_length=1)
    metadata_backend: Annotated[str, BeforeValidator(_discovered)] = "discovery"
    write_batch_size: Count = 128
    vae_batch_size: Annotated[int, Field(ge=1, le=MAX_BATCH)] = 4
    scan_for_errors: bool = False
    skip_file_discovery: str = ""
    image_embeds: str | None = None
    text_embeds: str | None = None

    @property
    def trusted(self) -> frozenset[str]:
        """The words of `skip_file_discovery`."""
        return frozenset(self.skip_file_discovery.replace(",", " ").split())

    @field_validator("caption_strategy")
    @classmethod
    def _known_strategy(cls, value: str) -> str:
        return _one_of(cls.caption_strategies, value)

    @field_validator("metadata_backend")
    @classmethod
    def _known_backend(cls, value: str) -> str:
        return _one_of(cls.metadata_backends, value)


def _one_of(choices: tuple[str, ...], value: str) -> str:
    if value not in choices:
        raise PydanticCustomError("literal_error", "{expected}", {"expected": " or ".join(choices)})
    return value


class FilesDataset(ImageDataset):
    """Image files, with text files next to them or a table about them."""

    caption_strategies = ("filename", "textfile", "instanceprompt", "parquet")
    metadata_backends = ("discovery", "parquet")


class TableColumns(BaseModel):
    """The key `parquet`: the columns of a .parquet or .jsonl file to use. Sizes are of upright images."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    filename_column: str = "filename"
    caption_column: str | None = None
    fallback_caption_column: str | None = None
    width_column: str | None = None
    height_column: str | None = None
    identifier_includes_extension: bool = False


class TableFile(TableColumns):
    """A table in a local file."""

    path: Folder


class LocalDataset(FilesDataset):
    """A folder of images."""

    instance_data_dir: Folder
    parquet: TableFile | None = None


class S3Settings(BaseModel):
    """A bucket and its credentials; keys that are not set come from the environment, as for AWS's own tools."""

    aws_bucket_name: str = Field(min_length=1)
    aws_data_prefix: str = ""
    aws_endpoint_url: str | None = Field(default=None, pattern="^https?://")
    aws_region_name: str | None = None
    aws_access_key_id: SecretStr | None = None
    aws_secret_access_key: SecretStr | None = None


class TableInBucket(TableColumns):
    """A table in the bucket, by its name below the prefix."""

    path: str = Field(min_length=1)


class S3Dataset(S3Settings, FilesDataset):
    """An S3-compatible bucket of images."""

    parquet: TableInBucket | None = None


class CsvDataset(ImageDataset):
    """A table of URLs, from which images are downloaded once."""

    caption_strategies = ("csv", "filename", "instanceprompt")
    brings_captions = True

    csv_file: Folder
    csv_cache_dir: Folder
    csv_url_column: str = "url"
    csv_caption_column: str = "caption"
    csv_retry_failed: bool = False
    caption_strategy: Annotated[str, BeforeValidator(_joined)] = "csv"


class HuggingFaceDataset(ImageDataset):
    """A folder of parquet files with images, local or on the Hugging Face hub. split: None for `train`, or all."""

    caption_strategies = ("huggingface", "instanceprompt")
    brings_captions = True

    dataset_name: Annotated[str, BeforeValidator(_folder_or_name), Field(min_length=1)]
    revision: str | None = None
    split: str | None = None
    image_column: str = "image"
    caption_column: str = "caption"
    caption_strategy: Annotated[str, BeforeValidator(_joined)] = "huggingface"

    @property
    def folder(self) -> Path | None:
        """The folder `dataset_name`; None if it is a name on the hub."""
        path = Path(self.dataset_name)
        return path if path.is_absolute() and path.is_dir() else None


KINDS_OF_DATASET: Mapping[str, type[ImageDataset]] = {
    "local": LocalDataset,
    "aws": S3Dataset,
    "csv": CsvDataset,
    "huggingface": HuggingFaceDataset,
}
"""By the entry's `type`, which sets where images come from."""


class EmbedsStore(BaseModel):
    """A cache of encoded images or captions: the folder `cache_dir`, or a bucket that `cache_dir` mirrors."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    id: Name = Field(min_length=1)
    cache_dir: Folder
    write_batch_size: Count = 128


class TextEmbedsStore(EmbedsStore):
    """A cache of encoded captions, and the filters for captions before they are encoded."""

    caption_filter_list: Annotated[tuple[str, ...], BeforeValidator(_filters)] = Field(default=(), strict=False)


class S3TextEmbedsStore(S3Settings, TextEmbedsStore):
    """Encoded captions in a bucket."""


class S3EmbedsStore(S3Settings, EmbedsStore):
    """Latents in a bucket."""


KINDS_OF_TEXT_STORE: Mapping[str, type[TextEmbedsStore]] = {"local": TextEmbedsStore, "aws": S3TextEmbedsStore}
KINDS_OF_IMAGE_STORE: Mapping[str, type[EmbedsStore]] = {"local": EmbedsStore, "aws": S3EmbedsStore}


def is_secret(key: str) -> bool:
    """Whether the value of an entry's key, even a misspelt one, must never be shown."""
    name = key.lower()
    return "secret" in name or (name.startswith("aws") and "key" in name)
