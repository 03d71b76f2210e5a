"""What a changed key of a dataset entry means for a run that resumes; options declare this themselves."""

from collections.abc import Mapping

from helpers.config.option import EMBEDDINGS, LATENTS, ChangeRule, OnResume

_LATENTS = ChangeRule(on_resume=OnResume.ANNOUNCE, invalidates=(LATENTS,))
_EMBEDDINGS = ChangeRule(on_resume=OnResume.ANNOUNCE, invalidates=(EMBEDDINGS,))
_NOTHING = ChangeRule(on_resume=OnResume.IGNORE)
_OTHER_IMAGES = ChangeRule(on_resume=OnResume.ANNOUNCE, effect="other images may be trained on")
_OTHER_PLACE = ChangeRule(
    on_resume=OnResume.IGNORE, effect="images are read from there; those with another name or size are encoded again"
)
_OTHER_CACHE = ChangeRule(on_resume=OnResume.IGNORE, effect="the cache is read from there, and filled if it is empty")
ORDER = ChangeRule(
    on_resume=OnResume.ANNOUNCE, effect="the order of images changes, and starts at the beginning of an epoch"
)
"""For a dataset that is added, removed, or given another weight."""

KEY_CHANGES: Mapping[str, ChangeRule] = {
    "id": _NOTHING,
    **dict.fromkeys(
        (
            "crop",
            "crop_aspect",
            "crop_style",
            "crop_aspect_buckets",
            "flip",
            "vae_cache_clear_each_epoch",
            "resolution",
            "resolution_type",
            "maximum_image_size",
            "target_downsample_size",
            "aspect_bucket_alignment",
            "aspect_bucket_rounding",
        ),
        _LATENTS,
    ),
    **dict.fromkeys(
        (
            "caption_strategy",
            "instance_prompt",
            "prepend_instance_prompt",
            "only_instance_prompt",
            "caption_fallback",
            "caption_shuffle",
            "caption_shuffle_count",
            "caption_keep_tokens",
            "caption_separator",
            "caption_filter_list",
            "csv_caption_column",
            "caption_column",
        ),
        _EMBEDDINGS,
    ),
    **dict.fromkeys(
        (
            "minimum_image_size",
            "is_regularisation_data",
            "metadata_backend",
            "parquet",
            "csv_url_column",
            "split",
            "image_column",
        ),
        _OTHER_IMAGES,
    ),
    **dict.fromkeys(("repeats", "probability", "ignore_epochs", "max_num_samples"), ORDER),
    **dict.fromkeys(
        (
            "instance_data_dir",
            "aws_bucket_name",
            "aws_data_prefix",
            "aws_endpoint_url",
            "aws_region_name",
            "csv_file",
            "dataset_name",
            "revision",
        ),
        _OTHER_PLACE,
    ),
    **dict.fromkeys(("cache_dir_vae", "cache_dir", "image_embeds", "text_embeds", "csv_cache_dir"), _OTHER_CACHE),
    **dict.fromkeys(
        (
            "aws_access_key_id",
            "aws_secret_access_key",
            "csv_retry_failed",
            "write_batch_size",
            "vae_batch_size",
            "scan_for_errors",
            "skip_file_discovery",
        ),
        _NOTHING,
    ),
}
"""By key, for every type of dataset and of store."""
