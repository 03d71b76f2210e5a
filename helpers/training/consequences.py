"""What follows from a setting being another than in the run before, as data: a sentence for each, or for its group."""

from collections.abc import Mapping

from helpers.training.checkpoint.compatibility import GROUPS_OF_NO_ACCOUNT, MUST_AGREE, OF_NO_ACCOUNT

OTHER_RUN = "checkpoints saved with the other value cannot be continued with this one"
LATENTS = "images whose size or cut changes are encoded again; latents of the other settings stay in the cache"
EVERY_LATENT = "all images are encoded again; their other latents stay in the cache"
CAPTIONS = "captions that change are encoded again; the others stay in the cache"
EVERY_CAPTION = "all captions are encoded again, to other numbers; the old embeddings stay in the cache"
SCHEDULE = "the learning rate follows it from the next step on"
LENGTH = "the run ends there, and schedules of the learning rate reach their end there"
NOTHING_LEARNED = "nothing of what is learned changes"
LEARNING = "what is learned from here on follows it"
IMAGES = "validation images differ for that reason, too; what is learned does not change"
MIX = "which images come when is another order, which begins again with an epoch"

KEPT_ELSEWHERE = "what is encoded is looked for there, and made where there is none"

BY_OPTION: Mapping[str, str] = {
    "pretrained_model_name_or_path": "a checkpoint is continued only if the model's weights are the same",
    "pretrained_vae_model_name_or_path": EVERY_LATENT,
    "vae_dtype": EVERY_LATENT,
    "quantize_via": "the frozen weights may be rounded otherwise; captions too, where text encoders are quantized",
    "pretrained_clip_l_model_name_or_path": EVERY_CAPTION,
    "pretrained_clip_g_model_name_or_path": EVERY_CAPTION,
    "pretrained_t5_model_name_or_path": EVERY_CAPTION,
    "text_encoder_1_precision": EVERY_CAPTION,
    "text_encoder_2_precision": EVERY_CAPTION,
    "text_encoder_3_precision": EVERY_CAPTION,
    "tokenizer_max_length": EVERY_CAPTION,
    "sd3_t5_mask_behaviour": EVERY_CAPTION,
    "force_cpu": "the run goes on where it was, and the arithmetic rounds differently",
    "mixed_precision": "what is encoded in another dtype is encoded again, and the arithmetic rounds otherwise",
    "base_model_precision": "the frozen weights are others; captions too, where text encoders follow it",
    "aspect_bucket_rounding": LATENTS,
    "aspect_bucket_alignment": LATENTS,
    "resolution": LATENTS,
    "resolution_type": LATENTS,
    "minimum_image_size": "other images are left out",
    "caption_strategy": CAPTIONS,
    "instance_prompt": CAPTIONS,
    "prepend_instance_prompt": CAPTIONS,
    "only_instance_prompt": CAPTIONS,
    "compress_disk_cache": "new entries of the cache are written so; those that stand stay as they are",
    "num_eval_images": "other images are kept back from training",
    "eval_dataset_id": NOTHING_LEARNED,
    "eval_steps_interval": NOTHING_LEARNED,
    "max_train_steps": LENGTH,
    "num_train_epochs": LENGTH,
    "checkpoints_total_limit": "older checkpoints beyond it are deleted when the next one stands",
    "resume_from_checkpoint": "the run goes on from there",
    "learning_rate": SCHEDULE,
    "lr_scheduler": SCHEDULE,
    "lr_warmup_steps": SCHEDULE,
    "lr_end": SCHEDULE,
    "lr_power": SCHEDULE,
    "lr_num_cycles": SCHEDULE,
}

BY_KEY: Mapping[str, str] = {
    **BY_OPTION,
    "crop": LATENTS,
    "crop_aspect": LATENTS,
    "crop_style": LATENTS,
    "crop_aspect_buckets": LATENTS,
    "flip": LATENTS,
    "maximum_image_size": LATENTS,
    "target_downsample_size": LATENTS,
    "instance_data_dir": "images are looked for there; of those with another name or size, latents are made",
    "cache_dir_vae": KEPT_ELSEWHERE,
    "cache_dir": KEPT_ELSEWHERE,
    "image_embeds": KEPT_ELSEWHERE,
    "text_embeds": KEPT_ELSEWHERE,
    "repeats": MIX,
    "probability": MIX,
    "ignore_epochs": MIX,
    "max_num_samples": MIX,
    "caption_filter_list": CAPTIONS,
    "caption_fallback": CAPTIONS,
    "caption_shuffle": CAPTIONS,
    "caption_shuffle_count": CAPTIONS,
    "caption_keep_tokens": CAPTIONS,
    "caption_separator": CAPTIONS,
    "write_batch_size": NOTHING_LEARNED,
    "vae_batch_size": NOTHING_LEARNED,
    "scan_for_errors": NOTHING_LEARNED,
}


def of_option(name: str, *, group: str) -> str:
    """What follows from the option `name` having another value."""
    if name in MUST_AGREE:
        return OTHER_RUN
    if name in BY_OPTION:
        return BY_OPTION[name]
    if name in OF_NO_ACCOUNT:
        return NOTHING_LEARNED
    if group == "validation":
        return IMAGES
    return NOTHING_LEARNED if group in GROUPS_OF_NO_ACCOUNT else LEARNING


def of_key(key: str) -> str:
    """What follows from a dataset's `key` having another value."""
    return BY_KEY.get(key, "what is trained on changes with it")
