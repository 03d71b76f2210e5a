"""Images and captions to train on, and how they are cached."""

from dataclasses import dataclass

from helpers.config.option import EMBEDDINGS, LATENTS, MAX_BATCH, MAX_THREADS, OnResume, option


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The dataset file, and defaults for datasets that do not set a key themselves."""

    data_backend_config: str | None = option(
        None,
        env="DATALOADER_CONFIG",
        on_resume=OnResume.IGNORE,
        help="Dataset file. If not set: `multidatabackend.json` in the output folder, else in `config/`.",
    )
    resolution: float = option(
        1.0,
        above=0.0,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Training resolution, in the unit of `resolution_type`.",
    )
    resolution_type: str = option(
        "area",
        choices=("area", "pixel", "pixel_area"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Unit of sizes: `area` is megapixels, `pixel` is the shorter edge, `pixel_area` is the edge of a square "
        "of that area.",
    )
    minimum_image_size: float | None = option(
        None,
        env="MINIMUM_RESOLUTION",
        minimum=0.0,
        on_resume=OnResume.ANNOUNCE,
        effect="the set of images changes",
        help="Leave out smaller images and report how many. In the unit of `resolution_type`.",
    )
    aspect_bucket_rounding: int = option(
        2,
        minimum=1,
        maximum=9,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Decimals of the aspect ratio by which images are grouped into buckets.",
    )
    aspect_bucket_alignment: int = option(
        64,
        minimum=16,
        maximum=4096,
        multiple_of=16,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(LATENTS,),
        help="Image widths and heights are multiples of this many pixels. SD3 needs a multiple of 16.",
    )
    caption_strategy: str = option(
        "filename",
        choices=("filename", "textfile", "instanceprompt", "instance_prompt", "parquet"),
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Where captions come from: the file name, a text file next to the image, `instance_prompt`, or a column "
        "of a parquet table.",
    )
    instance_prompt: str | None = option(
        None,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Caption of every image with `caption_strategy=instanceprompt`, or the text to put before each caption, "
        "such as a trigger word.",
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
        help="Replace every caption with the instance prompt.",
    )
    caption_shuffle: bool = option(
        False,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Shuffle the tags of each caption.",
    )
    caption_shuffle_count: int = option(
        4,
        minimum=1,
        maximum=1000,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Shuffled orders per caption with `caption_shuffle`. Each is encoded once and cached.",
    )
    caption_keep_tokens: int = option(
        0,
        minimum=0,
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Number of tags that stay first with `caption_shuffle`.",
    )
    caption_separator: str = option(
        ",",
        on_resume=OnResume.ANNOUNCE,
        invalidates=(EMBEDDINGS,),
        help="Separator between tags, for `caption_shuffle`.",
    )
    skip_file_discovery: str = option(
        "",
        on_resume=OnResume.IGNORE,
        help="What to use without checking it, any of `vae aspect metadata text`: caches filled by an earlier run, "
        "and the folder listing.",
    )
    max_workers: int | None = option(
        None,
        minimum=1,
        maximum=MAX_THREADS,
        on_resume=OnResume.IGNORE,
        help="Threads that read and decode images. If not set: one per CPU core.",
    )
    aws_max_pool_connections: int | None = option(
        None,
        minimum=1,
        maximum=MAX_THREADS,
        on_resume=OnResume.IGNORE,
        help="Images to read from a bucket and decode at once. If not set: 16, or one per CPU core if there are more "
        "cores.",
    )


@dataclass(frozen=True, kw_only=True)
class CacheOptions:
    """Caches of encoded images and captions."""

    vae_batch_size: int = option(
        4,
        minimum=1,
        maximum=MAX_BATCH,
        on_resume=OnResume.IGNORE,
        help="Maximum number of images to encode at once.",
    )
    write_batch_size: int = option(
        128,
        minimum=1,
        on_resume=OnResume.IGNORE,
        help="Maximum number of entries in one cache file.",
    )
    compress_disk_cache: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        effect="it applies to new cache entries; existing ones stay as they are",
        help="Compress cached text embeddings, without loss.",
    )
    keep_vae_loaded: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        help="Keep the VAE in memory once loaded, so that validation images do not load it again.",
    )
    cache_only: bool = option(
        False,
        on_resume=OnResume.IGNORE,
        publish=False,
        help="Fill the caches and stop before training.",
    )
