"""Which images and captions are trained on, and how they are cached."""

from dataclasses import dataclass

from helpers.config.option import EMBEDDINGS, LATENTS, OnResume, option


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The dataset file, and what holds for a dataset that does not say otherwise."""

    data_backend_config: str | None = option(
        None,
        env="DATALOADER_CONFIG",
        on_resume=OnResume.IGNORE,
        help="The dataset file; without it, `multidatabackend.json` in the output folder, else in `config/`.",
    )
    resolution: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="The training size, in the unit of `resolution_type`.",
    )
    resolution_type: str = option(
        "area",
        choices=("area", "pixel", "pixel_area"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="The unit of sizes: `area` megapixels, `pixel` the shorter edge, `pixel_area` the edge of a "
        "square of that area.",
    )
    minimum_image_size: float | None = option(
        None,
        env="MINIMUM_RESOLUTION",
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect="other images are left out",
        help="Smaller images are left out and counted; in the unit of `resolution_type`.",
    )
    aspect_bucket_rounding: int = option(
        2,
        minimum=1,
        maximum=9,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Decimals to which an aspect ratio is rounded when images are grouped.",
    )
    aspect_bucket_alignment: int = option(
        64,
        minimum=16,
        multiple_of=16,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Widths and heights are multiples of this many pixels; SD3 needs multiples of 16.",
    )
    caption_strategy: str = option(
        "filename",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt", "parquet"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Where captions come from.",
    )
    instance_prompt: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="The caption of every image with `caption_strategy=instanceprompt`, or what is put before each caption.",
    )
    prepend_instance_prompt: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Put the instance prompt before each caption.",
    )
    only_instance_prompt: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Use the instance prompt in place of every caption.",
    )
    caption_shuffle: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Put the tags of captions in other orders.",
    )
    caption_shuffle_count: int = option(
        4,
        minimum=1,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Orders for each caption with `caption_shuffle`; each is encoded once and cached.",
    )
    caption_keep_tokens: int = option(
        0,
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Tags that stay first with `caption_shuffle`.",
    )
    caption_separator: str = option(
        ",",
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="What stands between two tags, for `caption_shuffle`.",
    )
    skip_file_discovery: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="What to trust as it is, in words of `vae aspect metadata text`: caches filled before, and a listing.",
    )
    max_workers: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Threads that read and decode images; without it, one per processor core.",
    )
    aws_max_pool_connections: int | None = option(
        None,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Images of a bucket read and decoded at once; without it, 16, or one per processor core if there are "
        "more.",
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """How encoded images and captions are kept."""

    vae_batch_size: int = option(
        4,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Images encoded at once at the most.",
    )
    write_batch_size: int = option(
        128,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Entries in one cache file at the most.",
    )
    compress_disk_cache: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect="new cache entries are written that way; existing ones stay as they are",
        help="Compress cached text embeddings, without loss.",
    )
    keep_vae_loaded: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Keep the VAE in memory once it is loaded, so that validation images need not load it again.",
    )
    cache_only: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Fill the caches and stop before training.",
    )
