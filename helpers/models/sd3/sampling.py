"""Generates validation images from the denoiser in training, without any effect on it."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from helpers.errors import ModelError
from helpers.models.contexts import eval_mode
from helpers.models.family import ModelComponents, SampleRequest
from helpers.models.sd3.weights.component_files import read_config


@torch.no_grad()
def render(denoiser: nn.Module, parts: ModelComponents, request: SampleRequest) -> Tensor:
    """Raw latents [1, C, h, w] in fp32 on the denoiser's device, for the VAE to decode.

    Equals diffusers' StableDiffusion3Pipeline with the same embeddings in the denoiser's dtype and a CPU generator of
    the same seed; the loop is here because the pipeline class imports every encoder's code. `denoiser`: the module
    without a distributed wrapper. Under autocast predictions are bf16, and latents and guidance stay in the
    denoiser's dtype.
    """
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    _check_blocks(denoiser, request.skip_layers)
    vae, transformer = read_config(parts.vae), read_config(parts.transformer)
    downscale = 2 ** (len(vae["block_out_channels"]) - 1)
    first = next(denoiser.parameters())
    device, dtype = first.device, first.dtype
    texts = [request.prompt] if request.negative is None else [request.negative, request.prompt]
    prompt_embeds = torch.stack([text.prompt_embeds for text in texts]).to(device, dtype)
    pooled = torch.stack([text.pooled for text in texts]).to(device, dtype)

    shape = (1, transformer["in_channels"], request.height // downscale, request.width // downscale)
    generator = torch.Generator().manual_seed(request.seed)
    latents = torch.randn(shape, generator=generator, dtype=dtype).to(device)
    scheduler: Any = FlowMatchEulerDiscreteScheduler.from_pretrained(parts.scheduler)
    scheduler.set_timesteps(request.steps, device=device)
    with eval_mode(denoiser):
        for number, timestep in enumerate(scheduler.timesteps):
            velocity = denoiser(
                hidden_states=latents.expand(len(texts), -1, -1, -1),
                timestep=timestep.expand(len(texts)),
                encoder_hidden_states=prompt_embeds,
                pooled_projections=pooled,
                return_dict=False,
            )[0].to(dtype)
            if len(texts) == 2:
                without, with_prompt = velocity.chunk(2)
                velocity = without + request.guidance * (with_prompt - without)
                if request.skip_layers and _skips(number, request):
                    lesser = denoiser(
                        hidden_states=latents,
                        timestep=timestep.expand(1),
                        encoder_hidden_states=prompt_embeds[1:],
                        pooled_projections=pooled[1:],
                        skip_layers=list(request.skip_layers),
                        return_dict=False,
                    )[0].to(dtype)
                    velocity = velocity + (with_prompt - lesser) * request.skip_scale
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
    return (latents / vae["scaling_factor"] + (vae.get("shift_factor") or 0.0)).float()


def _skips(number: int, request: SampleRequest) -> bool:
    """Whether skip-layer guidance applies in denoising step `number`, counted from 0."""
    return request.steps * request.skip_start < number < request.steps * request.skip_stop


def _check_blocks(denoiser: nn.Module, wanted: Sequence[int]) -> None:
    blocks = len(denoiser.transformer_blocks)  # type: ignore[arg-type]
    if missing := [str(block) for block in wanted if not 0 <= block < blocks]:
        raise ModelError(
            f"validation_skip_layers names block {', '.join(missing)}, but the transformer has {blocks}: 0 to"
            f" {blocks - 1}."
        )
