"""What a model family must be able to do; a family is a value that holds functions, not a base class."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from helpers.config.options.model import ModelOptions, PrecisionOptions, TextOptions
from helpers.errors import Problem
from helpers.models.formats.lora import Pair
from helpers.models.formats.safetensors import LazyTensor, Opened
from helpers.models.memory import MemoryEstimate, Workload


@dataclass(frozen=True, slots=True)
class TextEmbedding:
    """A caption as the model is given it: prompt_embeds [L, D], pooled [P]; or several, with an axis before."""

    prompt_embeds: Tensor
    pooled: Tensor


class TextEncoder(Protocol):
    """One loaded text encoder with its tokenizer."""

    def encode(self, captions: Sequence[str]) -> dict[str, Tensor]:
        """Named outputs of each caption, first axis the captions, bf16 on the CPU.

        A caption's rows do not depend on which others are encoded with it, nor on how many.
        """
        ...


class LatentEncoder(Protocol):
    """A loaded VAE."""

    def encode(self, pixels: Tensor, *, at_most: int | None = None) -> Tensor:
        """Raw latents (no shift or scale) [B, C, h, w] in fp32 on the CPU, of uint8 RGB pixels [B, H, W, 3].

        The mean of the posterior; an image's latent does not depend on which others are encoded with it.
        at_most: how many images the device's memory holds at once, where it has run out with more.
        """
        ...

    def decode(self, latents: Tensor, *, tiled: bool = False) -> Tensor:
        """uint8 RGB pixels [B, H, W, 3] on the CPU, of raw latents [B, C, h, w]; `tiled`: in small pieces."""
        ...


@dataclass(frozen=True, kw_only=True)
class TokenLimit:
    """Where a tokenizer cuts: `tokens`, special ones included; `name` for messages; `identity`: a hash of its files.

    load: loads the tokenizer alone, which then counts the tokens of captions before they are cut.
    """

    name: str
    tokens: int
    identity: str
    load: Callable[[], Callable[[Sequence[str]], list[int]]]


@dataclass(frozen=True, kw_only=True)
class TextEncoderSpec:
    """A text encoder that may be loaded: what its outputs depend on, and how to get it.

    identity: a hash of all its outputs depend on besides the caption: weights, config, tokenizer, precision,
    length and masking. earlier_identities: what earlier versions of this program used instead; computed only where an
    entry is missing. batch_size: how many captions `encode` takes at once at best.
    bytes_per_caption: of its outputs.
    load: loads it on the device; the caller drops it again before loading another.
    limit: where it cuts captions; None where that is said by another that cuts alike.
    trains: it stays loaded and is trained, so that nothing of it is cached.
    is_constant: its outputs are the same for every caption, so that nothing of it is cached either.
    """

    name: str
    identity: str
    batch_size: int
    bytes_per_caption: int
    load: Callable[[], TextEncoder]
    limit: TokenLimit | None = None
    earlier_identities: Callable[[], Sequence[str]] = tuple
    trains: bool = False
    is_constant: bool = False

    @property
    def is_cached(self) -> bool:
        """Whether its outputs are cached."""
        return not self.trains and not self.is_constant


@dataclass(frozen=True, kw_only=True)
class VaeSpec:
    """A VAE that may be loaded; `identity` is a hash of its weights, config and dtype.

    earlier_identities: what earlier versions of this program used instead; computed only where an entry is missing.

    Raw latents become the model's by (z - shift) * scale. `downscale`: pixels per latent pixel.
    parallel_encodes: from how many threads `encode` is best called at once: 1 on an accelerator, which one call fills;
    on the CPU the number of cores, each thread then computing with one, which beats all of them sharing one image.
    """

    identity: str
    shift: float
    scale: float
    channels: int
    downscale: int
    parallel_encodes: int = 1
    load: Callable[[], LatentEncoder]
    earlier_identities: Callable[[], Sequence[str]] = tuple

    def cached(self) -> "VaeSpec":
        """The same, which once loaded stays in memory."""
        return replace(self, load=cache(self.load))


@dataclass(frozen=True, kw_only=True)
class ModelComponents:
    """Where a base model's components are on this machine, read from its folder without loading weights.

    variant: such as `SD3 medium` or `SD3.5 large`, by the transformer's config.
    identity: a hash of the transformer's config and weights. flow_shift: of its own scheduler.
    longest_edge_px: of an image that the model can place.
    weights_variant: which of several sets of weight files is meant, such as `fp16`; parts without it have plain ones.
    transformer, vae and text_encoders: folders in diffusers layout; of a component that lies in a file, its name below
    that file. text_encoders and tokenizers: without those at the end that are `absent`, components by their names in a
    folder, which the model is trained without. sources: of each component, what the user set that it is taken from.
    """

    name: str
    variant: str
    identity: str
    flow_shift: float
    longest_edge_px: int
    weights_variant: str | None
    transformer: Path
    vae: Path
    scheduler: Path
    text_encoders: tuple[Path, ...]
    tokenizers: tuple[Path, ...]
    absent: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def describe_sources(self) -> str:
        """Which part comes from where, as a line; empty where all come from one place."""
        places = tuple(dict.fromkeys(self.sources.values()))
        if len(places) < 2:
            return ""
        taken = ((place, [part for part, source in self.sources.items() if source == place]) for place in places)
        return "the model's parts: " + "; ".join(f"{', '.join(names)} from {place}" for place, names in taken)


@dataclass(frozen=True, kw_only=True)
class SampleRequest:
    """One validation image: raw text embeddings, size in pixels, and the sampler's settings.

    negative: None where `guidance` is 1 or less.
    skip_layers: blocks for skip-layer guidance, led away from by `skip_scale` in the steps between the shares
    `skip_start` and `skip_stop`; only where there is guidance.
    """

    prompt: TextEmbedding
    negative: TextEmbedding | None
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    skip_layers: tuple[int, ...] = ()
    skip_scale: float = 0.0
    skip_start: float = 0.0
    skip_stop: float = 0.0


class Predict(Protocol):
    """One forward pass of a family's denoiser."""

    def __call__(
        self,
        denoiser: nn.Module,
        noisy: Tensor,
        sigmas: Tensor,
        prompt_embeds: Tensor,
        pooled: Tensor,
        tokens: Tensor | None = None,
    ) -> Tensor:
        """The predicted velocity [B, C, h, w] of `noisy` [B, C, h, w] at `sigmas` [B] in (0, 1].

        tokens: of the captions [B, encoders, n], for a denoiser from `TrainableTextEncoders.wrap`.
        """
        ...


class TrainableTextEncoders(Protocol):
    """Text encoders that stay loaded beside the denoiser, to be trained with it.

    module: they and nothing else; its children are called as diffusers calls them in a file of adapters.
    """

    module: nn.Module

    def tokens(self, caption: str) -> Tensor:
        """The caption's token ids for each of them, int64 [encoders, n]; from any thread."""
        ...

    def embeddings(self, tokens: Tensor, cached: Tensor) -> TextEmbedding:
        """The embeddings of captions, with gradients, of tokens [B, encoders, n] and what is cached [B, L, D]."""
        ...

    def lora_modules(self, encoder: nn.Module) -> list[str]:
        """The layers of one of the children that a LoRA sits on."""
        ...

    def wrap(self, denoiser: nn.Module) -> nn.Module:
        """One module of both, which predicts from `tokens` and what is cached."""
        ...

    def enable_checkpointing(self) -> None:
        """Compute each layer's activations again on the way back instead of keeping them."""
        ...


@dataclass(frozen=True, kw_only=True)
class FamilyFormats:
    """The files of a family that other programs know, of which nothing is loaded before its turn has come.

    open_base, open_single_file: contexts with a denoiser's tensors by diffusers' names, and its header: of a base's own
    parts, or of one file in the original layout. is_single_file: by the names of a file's tensors.
    with_own_parts: a base's parts, but the VAE and text encoders of such a file where it holds them.
    write_single_file: tensors by diffusers' names and the components whose VAE goes with them, as one such file; text:
    as in `write_pipeline`, which brings the text encoders into it, as does `with_text_encoders`.
    read_lora: the LoRA in a file of any known form, by the layers' names in diffusers; raises ModelError for any other.
    what_it_is: what a file is whose tensors have these names, in words.
    write_comfyui_lora: by the layers' names in diffusers; base: a denoiser's tensors, for a DoRA.
    comfyui_scales: by the same names what ComfyUI needs of each layer of a DoRA (pairs; base).
    to_comfyui_lycoris: the tensors of a LyCORIS by ComfyUI's names; has_full_differences: whether these are others.
    """

    open_base: Callable[[ModelComponents], AbstractContextManager[Opened]]
    open_single_file: Callable[[Path], AbstractContextManager[Opened]]
    with_own_parts: Callable[[Path, ModelComponents], ModelComponents]
    is_single_file: Callable[[Iterable[str]], bool]
    write_single_file: Callable[..., None]
    read_lora: Callable[[Path], dict[str, Pair]]
    what_it_is: Callable[[Sequence[str]], str]
    write_comfyui_lora: Callable[..., None]
    comfyui_scales: Callable[..., dict[str, Tensor]]
    to_comfyui_lycoris: Callable[[Mapping[str, LazyTensor]], dict[str, LazyTensor]]
    has_full_differences: Callable[[Iterable[str]], bool]


@dataclass(frozen=True, kw_only=True)
class AdapterLayers:
    """The layers of a denoiser that an adapter can sit on, by its config alone.

    shapes: outputs and inputs of each, by name. sets: the layers that each word of `lora_target` means.
    """

    shapes: Mapping[str, tuple[int, int]]
    sets: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class FamilyFacts:
    """What other programs and sites call a family of models.

    title: for messages. pipeline_class: diffusers' class. hub_tag: of model cards.
    architecture: ModelSpec's name; variant_architectures: more exact ones, by `ModelComponents.variant`.
    original_implementation: ModelSpec's name of the layout that `FamilyFormats.write_single_file` writes.
    licenses: by hub id, the license entries of a model card's metadata, for models without a card of their own.
    text_options: those of `TextOptions` that the family's text encoders depend on; named in trained files and cards.
    """

    title: str
    pipeline_class: str
    hub_tag: str
    architecture: str
    original_implementation: str
    variant_architectures: Mapping[str, str] = field(default_factory=dict)
    licenses: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    text_options: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ModelFamily:
    """Everything the trainer asks of a family of models.

    locate: find the components (downloading from the hub where a hub id is given) and open each one's config and
    header; raises ModelError, where files are not what they should be BrokenModelError.
    component_files: the files that each component is read from, by its name in a folder; raises ModelError.
    check_settings: the settings of a run that ask for what the model does not have, by its configs (ModelComponents,
    RunConfig).
    text_parts: the text encoders, in the order in which `assemble_text` wants their outputs.
    assemble_text: one caption's outputs of every part that is cached -> TextEmbedding, bf16.
    learning_text: the text encoders that learn, as `text_parts` says, loaded with the same arguments.
    latent_part: the VAE (ModelComponents, PrecisionOptions, device; vae_batch_size: images at once on an accelerator).
    estimate_memory: the peaks that the workload will need, from the components' configs alone.
    load_denoiser: the frozen base on a device, quantized as set, in eval mode (ModelComponents, PrecisionOptions,
        device; offloaded: blocks at its end that stay in the processor's memory).
    blocks: its transformer blocks, first to last.
    enable_checkpointing: recompute the activations of every `interval`-th block (denoiser; interval).
    adapter_layers: see `AdapterLayers`, of the components' denoiser.
    lora_modules: the names of the denoiser's layers that a `lora_target` means; raises ModelError for unknown ones.
    render: raw latents [1, C, h, w] of an image, from the denoiser as it is (see SampleRequest); the same
    image as the family's diffusers pipeline draws from the same seed.
    write_pipeline: fill an empty folder with a denoiser's tensors and the base's other components (tensors by
    diffusers' names, ModelComponents, folder; text: a text encoder LoRA to merge; metadata), from which the family's
    diffusers pipeline opens.
    formats: see `FamilyFormats`. facts: see `FamilyFacts`.
    """

    name: str
    facts: FamilyFacts
    locate: Callable[[ModelOptions], ModelComponents]
    component_files: Callable[[ModelComponents], dict[str, tuple[Path, ...]]]
    check_settings: Callable[..., Iterable[Problem]]
    text_parts: Callable[[ModelComponents, TextOptions, PrecisionOptions, torch.device], tuple[TextEncoderSpec, ...]]
    assemble_text: Callable[[Sequence[Mapping[str, Tensor]]], TextEmbedding]
    learning_text: Callable[[ModelComponents, TextOptions, PrecisionOptions, torch.device], TrainableTextEncoders]
    latent_part: Callable[..., VaeSpec]
    estimate_memory: Callable[[ModelComponents, Workload], MemoryEstimate]
    load_denoiser: Callable[..., nn.Module]
    blocks: Callable[[nn.Module], list[nn.Module]]
    enable_checkpointing: Callable[..., None]
    adapter_layers: Callable[[ModelComponents], AdapterLayers]
    lora_modules: Callable[[nn.Module, str], list[str]]
    predict: Predict
    render: Callable[[nn.Module, ModelComponents, SampleRequest], Tensor]
    write_pipeline: Callable[..., None]
    formats: FamilyFormats
