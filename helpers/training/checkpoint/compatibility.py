"""What may differ between a checkpoint and the run that continues it: refused, announced or of no account, as data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from helpers.errors import CheckpointError
from helpers.training.checkpoint.manifest import CheckpointManifest, Foundations

BASE_MODEL = "the base model"
WORLD_SIZE = "the number of processes"
DATASET = "dataset"
QUANTIZED_LAYERS = "the arithmetic of quantized layers"

# The saved weights, optimizer state or place in the data's order mean something else under another value.
MUST_AGREE = (
    BASE_MODEL,
    "model_type",
    "lora_rank",
    "lora_alpha",
    "lora_target",
    "train_text_encoder",
    "lora_type",
    "lora_ranks",
    "lora_init_type",
    "use_dora",
    "use_rslora",
    "layer_freeze_strategy",
    "train_modules",
    "freeze_modules",
    "optimizer",
    "optimizer_config",
    "seed",
    "train_batch_size",
    "gradient_accumulation_steps",
)
# Where things are, when they are shown or saved, and how quickly they are computed. The base model and the datasets
# are judged by what they hold.
OF_NO_ACCOUNT = (
    "pretrained_model_name_or_path",
    "lycoris_config",
    "init_lora",
    "pretrained_parts_model_name_or_path",
    "revision",
    "variant",
    "data_backend_config",
    "output_dir",
    "resume_from_checkpoint",
    "checkpointing_steps",
    "checkpoints_total_limit",
    "gradient_checkpointing",
    "gradient_checkpointing_interval",
    "offload_blocks",
    "offload_activations",
    "fused_backward",
    "torch_num_threads",
    "max_workers",
    "aws_max_pool_connections",
    "skip_file_discovery",
    "vae_batch_size",
    "write_batch_size",
    "compress_disk_cache",
    "keep_vae_loaded",
    "cache_only",
    "dry_run",
    "next_step",
    "ema_validation",
)
# Of a dataset: where things are, and how quickly they are read. What is found there is judged by the catalog.
KEYS_OF_NO_ACCOUNT = (
    "id",
    "instance_data_dir",
    "cache_dir_vae",
    "cache_dir",
    "image_embeds",
    "text_embeds",
    "aws_bucket_name",
    "aws_data_prefix",
    "aws_endpoint_url",
    "aws_region_name",
    "aws_access_key_id",
    "aws_secret_access_key",
    "csv_file",
    "csv_cache_dir",
    "csv_retry_failed",
    "dataset_name",
    "revision",
    "write_batch_size",
    "vae_batch_size",
    "scan_for_errors",
    "skip_file_discovery",
)
GROUPS_OF_NO_ACCOUNT = ("export", "validation", "held_out", "reporting", "publishing")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A setting that is another now than when the checkpoint was saved."""

    name: str
    saved: str
    current: str

    def __str__(self) -> str:
        return f"{self.name}: {self.saved} in the checkpoint, {self.current} now"


@dataclass(frozen=True, kw_only=True)
class Continuation:
    """How a run continues: what is announced, and whether the order of images is still the one it had."""

    announced: tuple[Difference, ...]
    same_order: bool


def compare(
    manifest: CheckpointManifest,
    *,
    configuration: Mapping[str, Mapping[str, Any]],
    foundations: Foundations,
    folder: str,
) -> Continuation:
    """What differs; raises CheckpointError where the run would not be the one that was saved."""
    differences = [*_foundations(manifest.foundations, foundations)]
    same_order = not any(difference.name.startswith((WORLD_SIZE, DATASET)) for difference in differences)
    differences += _dataset_settings(manifest.foundations.dataset_settings, foundations.dataset_settings)
    differences += _settings(manifest.configuration, configuration)
    differences += _quantized_layers(manifest, foundations)
    refused = [difference for difference in differences if difference.name in MUST_AGREE]
    if refused:
        listed = "\n".join(f"  {difference}" for difference in refused)
        raise CheckpointError(
            f"{folder} cannot be continued with these settings:\n{listed}\n"
            "Set them back to continue it, or start a new run: another OUTPUT_DIR, or resume_from_checkpoint=none."
        )
    return Continuation(announced=tuple(differences), same_order=same_order)


def _foundations(saved: Foundations, current: Foundations) -> Iterator[Difference]:
    if saved.base_identity != current.base_identity:
        yield Difference(
            name=BASE_MODEL,
            saved=f"{saved.base_model} ({saved.base_identity})",
            current=f"{current.base_model} ({current.base_identity})",
        )
    if saved.world_size != current.world_size:
        yield Difference(name=WORLD_SIZE, saved=str(saved.world_size), current=str(current.world_size))
    for dataset in sorted(saved.datasets.keys() | current.datasets.keys()):
        before, now = saved.datasets.get(dataset, "not there"), current.datasets.get(dataset, "not there")
        if before != now:
            yield Difference(name=f"{DATASET} {dataset}", saved=before, current=now)


def _dataset_settings(
    saved: Mapping[str, Mapping[str, str]], current: Mapping[str, Mapping[str, str]]
) -> Iterator[Difference]:
    """Keys that differ of datasets that both have: none moves the place in the order, which the catalogs decide."""
    for dataset, keys in current.items():
        for key, value in keys.items():
            before = saved.get(dataset, {}).get(key, value)
            if before != value:
                yield Difference(name=f"{DATASET} {dataset}, {key}", saved=before or "none", current=value or "none")


def _quantized_layers(manifest: CheckpointManifest, current: Foundations) -> Iterator[Difference]:
    """How quantized layers compute, where the checkpoint's run had any: the same frozen weights, rounded otherwise."""
    saved = manifest.foundations.quantized_layers
    levels = [str(value) for value in manifest.configuration.get("precision", {}).values()]
    if saved != current.quantized_layers and any(level.endswith("-quanto") for level in levels):
        yield Difference(name=QUANTIZED_LAYERS, saved=saved, current=current.quantized_layers)


def _settings(saved: Mapping[str, Mapping[str, Any]], current: Mapping[str, Mapping[str, Any]]) -> Iterator[Difference]:
    """Settings that differ and matter; one that only one of the two program versions knows can't be compared."""
    for group, settings in current.items():
        for name, value in settings.items():
            before = saved.get(group, {}).get(name, value)
            if before != value and name not in OF_NO_ACCOUNT and group not in GROUPS_OF_NO_ACCOUNT:
                yield Difference(name=name, saved=str(before), current=str(value))
