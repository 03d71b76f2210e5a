"""Names of Stable Diffusion 3 and 3.5 elsewhere: diffusers' class, ModelSpec's architectures, licenses."""

from helpers.models.family import FamilyFacts

HUB = "https://huggingface.co/stabilityai"
ARCHITECTURE = "stable-diffusion-v3"
ORIGINAL = "https://github.com/Stability-AI/sd3.5"


def _community(repository: str) -> dict[str, str]:
    link = f"{HUB}/{repository}/blob/main/LICENSE.md"
    return {"license": "other", "license_name": "stabilityai-ai-community", "license_link": link}


SD3_FACTS = FamilyFacts(
    title="SD3 or SD3.5",
    pipeline_class="StableDiffusion3Pipeline",
    hub_tag="stable-diffusion-3",
    architecture=ARCHITECTURE,
    variant_architectures={
        "SD3 medium": f"{ARCHITECTURE}-medium",
        "SD3.5 medium": f"{ARCHITECTURE}.5-medium",
        "SD3.5 large": f"{ARCHITECTURE}.5-large",
    },
    original_implementation=ORIGINAL,
    text_options=("tokenizer_max_length", "sd3_t5_mask_behaviour"),
    # From the model cards on the hub.
    licenses={
        "stabilityai/stable-diffusion-3-medium-diffusers": _community("stable-diffusion-3-medium"),
        "stabilityai/stable-diffusion-3.5-medium": _community("stable-diffusion-3.5-medium"),
        "stabilityai/stable-diffusion-3.5-large": _community("stable-diffusion-3.5-large"),
        "stabilityai/stable-diffusion-3.5-large-turbo": _community("stable-diffusion-3.5-large-turbo"),
    },
)
