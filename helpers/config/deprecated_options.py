"""Names in old files that are not options here: replaced, without effect, or refused with a reason."""

from dataclasses import dataclass

OFF = ("false", "0", "no", "none", "")
EVERY_VALUE: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class DeprecatedOption:
    """A name that is not an option here.

    name: the flag without dashes.
    env: its name in the env file; empty if it is the flag in capitals.
    stands_for: the option and the value that replace it.
    harmless: the values without effect, in lower case; None if no value has an effect.
    remark: a line to report where it is harmless; empty for none.
    reason, fix: the error for a value that is not harmless.
    switch: whether the flag may be given without a value.
    """

    name: str
    env: str = ""
    stands_for: tuple[str, str] | None = None
    harmless: tuple[str, ...] | None = OFF
    remark: str = ""
    reason: str = ""
    fix: str = "remove it"
    switch: bool = False

    @property
    def env_name(self) -> str:
        """Its name in the env file."""
        return self.env or self.name.upper()


def _replaced(name: str, *, option: str, value: str) -> DeprecatedOption:
    return DeprecatedOption(name=name, stands_for=(option, value), switch=True)


def _meaningless(name: str, remark: str, *, env: str = "", switch: bool = False) -> DeprecatedOption:
    return DeprecatedOption(name=name, env=env, harmless=EVERY_VALUE, remark=remark, switch=switch)


def _family(env: str) -> DeprecatedOption:
    reason = "only Stable Diffusion 3 and 3.5 are supported so far"
    return DeprecatedOption(
        name=env.lower(), env=env, switch=True, reason=reason, fix="set it to false, and STABLE_DIFFUSION_3=true"
    )


def _deleting(env: str, *, name: str) -> DeprecatedOption:
    reason = "this program does not delete your images; it lists those that it leaves out by name, with the reason"
    return DeprecatedOption(name=name, env=env, switch=True, reason=reason, fix="set it to 0, or remove it")


NOT_SD3 = "has no effect for SD3"
NOT_HERE = "has no effect here"

OLD_NAMES: tuple[DeprecatedOption, ...] = (
    _replaced("adam_bfloat16", option="optimizer", value="adamw_bf16"),
    _replaced("use_prodigy_optimizer", option="optimizer", value="prodigy"),
    _replaced("use_adafactor_optimizer", option="optimizer", value="adafactor"),
    _replaced("use_8bit_adam", option="optimizer", value="adamw8bit"),
    _replaced("use_dadapt_optimizer", option="optimizer", value="dadaptation"),
    _replaced("use_bitfit", option="layer_freeze_strategy", value="bitfit"),
    _meaningless("pure_bf16", "is not needed: OPTIMIZER=adamw_bf16 sets it", switch=True),
    _meaningless("validation_guidance_real", NOT_SD3),
    _meaningless("validation_guidance_rescale", NOT_SD3),
    _meaningless("validation_no_cfg_until_timestep", NOT_SD3),
    _meaningless("training_scheduler_timestep_spacing", NOT_SD3),
    _meaningless("inference_scheduler_timestep_spacing", NOT_SD3),
    _meaningless("snr_gamma", NOT_SD3, env="MIN_SNR_GAMMA"),
    _meaningless("min_snr_gamma", NOT_SD3),
    _meaningless("use_xformers", NOT_HERE + ": PyTorch's own attention is used", switch=True),
    _meaningless("enable_xformers_memory_efficient_attention", NOT_HERE, switch=True),
    _meaningless("read_batch_size", NOT_HERE),
    _meaningless("image_processing_batch_size", NOT_HERE),
    _meaningless("metadata_update_interval", NOT_HERE),
    _meaningless("disable_bucket_pruning", "is not needed: buckets are never pruned", switch=True),
    _meaningless("vae_cache_scan_behaviour", "is not needed: only what a setting changes is encoded again"),
    _family("FLUX"),
    _family("PIXART_SIGMA"),
    _family("KOLORS"),
    _family("STABLE_DIFFUSION_LEGACY"),
    _family("SMOLDIT"),
    _family("CONTROLNET"),
    _deleting("DELETE_ERRORED_IMAGES", name="delete_problematic_images"),
    _deleting("DELETE_SMALL_IMAGES", name="delete_unwanted_images"),
)
