"""Turns captions into the denoiser's conditioning: from the cache alone, or through text encoders that are trained."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from helpers.config.options.model import LoraOptions, TextOptions
from helpers.config.options.training import RunOptions
from helpers.dataloader.loader import TextLookup
from helpers.models.adapters.text_encoders import with_text_encoders
from helpers.models.adapters.trainable import Trainable
from helpers.models.contexts import eval_mode
from helpers.models.family import TextEmbedding, TrainableTextEncoders
from helpers.models.formats.lora import TEXT_PREFIXES
from helpers.reporting.progress import stage
from helpers.reporting.reporter import Reporter
from helpers.training.preparation.prepare import PreparedRun


@dataclass(frozen=True, kw_only=True)
class TextConditioning:
    """The conditioning of a run.

    lookup: embeddings of captions with the current weights, for validation. tokens: see `BatchBuilder`. module: the
    denoiser, or a module that runs the text encoders before it.
    """

    lookup: TextLookup
    tokens: Callable[[str], Tensor] | None
    module: nn.Module


def build_conditioning(
    denoiser: nn.Module,
    *,
    trained: Trainable,
    prepared_run: PreparedRun,
    text: TextOptions,
    lora: LoraOptions,
    run: RunOptions,
    reporter: Reporter,
) -> tuple[TextConditioning, Trainable]:
    """The conditioning of `denoiser`, and everything that is trained: text encoders too, with `train_text_encoder`.

    Without it nothing is loaded, and `trained` is returned as it is.
    """
    if not text.train_text_encoder:
        return TextConditioning(lookup=prepared_run.text, tokens=None, module=denoiser), trained
    device = prepared_run.runtime.device
    with stage(reporter, "load CLIP-L and CLIP-G", total=1, unit="pairs") as advance:
        learning = prepared_run.family.learning_text(prepared_run.parts, text, prepared_run.runtime.precision, device)
        advance()
    pairs = prepared_run.family.formats.read_lora(lora.init_file) if lora.init_file else {}
    of_text = {layer: pair for layer, pair in pairs.items() if layer.startswith(TEXT_PREFIXES)}
    trained = with_text_encoders(trained, text=learning, lora=lora, seed=run.seed, pairs=of_text)
    if run.gradient_checkpointing:
        learning.enable_checkpointing()
    lookup = TrainableTextLookup(cached=prepared_run.text, learning=learning, device=device)
    return TextConditioning(lookup=lookup, tokens=learning.tokens, module=learning.wrap(denoiser)), trained


@dataclass(frozen=True, kw_only=True)
class TrainableTextLookup:
    """Embeddings from the current weights of the trained text encoders, and from the cache for the others."""

    cached: TextLookup
    learning: TrainableTextEncoders
    device: torch.device

    @torch.no_grad()
    def embedding(self, caption: str) -> TextEmbedding:
        """See `TextLookup`."""
        cached = self.cached.embedding(caption).prompt_embeds.to(self.device)
        tokens = self.learning.tokens(caption).to(self.device)
        with eval_mode(self.learning.module):
            found = self.learning.embeddings(tokens.unsqueeze(0), cached.unsqueeze(0))
        return TextEmbedding(prompt_embeds=found.prompt_embeds[0].cpu(), pooled=found.pooled[0].cpu())
