"""Which images and captions are trained on, and how they are cached."""

from dataclasses import dataclass

from helpers.config.option import setting


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The dataset file, and what holds for a dataset that does not say otherwise."""

    data_backend_config: str | None = setting(
        None,
        env="DATALOADER_CONFIG",
        help="The dataset file; without it, `multidatabackend.json` in the output folder, else in `config/`.",
    )
    resolution: float = setting(1.0, above=0.0, help="The training size, in the unit of `resolution_type`.")
    resolution_type: str = setting(
        "area",
        choices=("area", "pixel", "pixel_area"),
        help="The unit of sizes: `area` megapixels, `pixel` the shorter edge, `pixel_area` the edge of a "
        "square of that area.",
    )
    minimum_image_size: float | None = setting(
        None,
        env="MINIMUM_RESOLUTION",
        minimum=0.0,
        help="Smaller images are left out and counted; in the unit of `resolution_type`.",
    )
    aspect_bucket_rounding: int = setting(
        2,
        minimum=1,
        maximum=9,
        help="Decimals to which an aspect ratio is rounded when images are grouped.",
    )
    aspect_bucket_alignment: int = setting(
        64,
        minimum=16,
        multiple_of=16,
        help="Widths and heights are multiples of this many pixels; SD3 needs multiples of 16.",
    )
    caption_strategy: str = setting(
        "filename",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt", "parquet"),
        help="Where captions come from.",
    )
    instance_prompt: str | None = setting(
        None,
        help="The caption of every image with `caption_strategy=instanceprompt`, or what is put before each caption.",
    )
    prepend_instance_prompt: bool = setting(False, help="Put the instance prompt before each caption.")
    only_instance_prompt: bool = setting(False, help="Use the instance prompt in place of every caption.")
    caption_shuffle: bool = setting(False, help="Put the tags of captions in other orders.")
    caption_shuffle_count: int = setting(
        4,
        minimum=1,
        help="Orders for each caption with `caption_shuffle`; each is encoded once and cached.",
    )
    caption_keep_tokens: int = setting(0, minimum=0, help="Tags that stay first with `caption_shuffle`.")
    caption_separator: str = setting(",", help="What stands between two tags, for `caption_shuffle`.")
    skip_file_discovery: str = setting(
        "",
        help="What to trust as it is, in words of `vae aspect metadata text`: caches filled before, and a listing.",
    )
    max_workers: int | None = setting(
        None,
        minimum=1,
        help="Threads that read and decode images; without it, one per processor core.",
    )
    aws_max_pool_connections: int | None = setting(
        None,
        minimum=1,
        help="Images of a bucket read and decoded at once; without it, 16, or one per processor core if there are "
        "more.",
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How encoded images and captions are kept."""

    vae_batch_size: int = setting(4, minimum=1, help="Images encoded at once at the most.")
    write_batch_size: int = setting(128, minimum=1, help="Entries in one cache file at the most.")
    compress_disk_cache: bool = setting(False, help="Compress cached text embeddings, without loss.")
    keep_vae_loaded: bool = setting(
        False,
        help="Keep the VAE in memory once it is loaded, so that validation images need not load it again.",
    )
    cache_only: bool = setting(False, help="Fill the caches and stop before training.")
