"""What an entry of the dataset file may say of a table about its images: which file, and which columns."""

from pydantic import BaseModel, ConfigDict


class TableColumns(BaseModel):
    """The key `parquet`: which columns of a .parquet or .jsonl file are looked at. Sizes are of upright images."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    filename_column: str = "filename"
    caption_column: str | None = None
    fallback_caption_column: str | None = None
    width_column: str | None = None
    height_column: str | None = None
    identifier_includes_extension: bool = False
