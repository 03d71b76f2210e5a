"""Peak activation memory of one pass through the transformer, a text encoder or the VAE, in bytes.

Tensors that autograd saves are counted one by one, for diffusers' JointTransformerBlock and peft's LoRA layers
(PyTorch's attention saves queries, keys, values and its output, never the matrix of scores).
"""

from dataclasses import dataclass

from helpers.models.sd3.memory.architecture import MLP_RATIO, TextEncoder, Transformer, Vae

BF16, FP32 = 2, 4
TEXT_ROWS = 32
"""A text encoder's batch size in captions."""


@dataclass(frozen=True, kw_only=True)
class ForwardShape:
    """One forward pass of the transformer.

    image_tokens, text_tokens: per image. base: bytes per value of the base's dtype. autocast: whether matrices are
    multiplied in bf16 for any dtype. norms_in_fp32: whether layer norms run in fp32, as with autocast on CUDA. full:
    whether all weights are trained. adapted: names of the layers with an adapter. lengths: whether the adapter trains
    row norms, as DoRA does. quantized: whether the blocks' linear layers are quantized.
    """

    image_tokens: int
    text_tokens: int
    images: int
    base: int
    autocast: bool
    norms_in_fp32: bool
    full: bool
    adapted: frozenset[str]
    lengths: bool = False
    quantized: bool = False

    @property
    def number(self) -> int:
        """Bytes per value of a layer's output."""
        return BF16 if self.autocast else self.base

    @property
    def norm_bytes(self) -> int:
        """Bytes per value in a layer norm."""
        return FP32 if self.autocast and self.norms_in_fp32 else self.number

    @property
    def weight_bytes(self) -> int:
        """Bytes per value in the matrix product of a trained weight; adapters are fp32."""
        return self.number if self.autocast or self.full else FP32

    @property
    def casts_weights(self) -> bool:
        """Whether autocast makes a bf16 copy of each unquantized weight, which the backward pass needs too."""
        return self.autocast and self.base == FP32 and not self.quantized

    @property
    def tokens(self) -> int:
        return self.images * (self.image_tokens + self.text_tokens)


def saved_activation_bytes(transformer: Transformer, run: ForwardShape, *, block: int) -> int:
    """Bytes that autograd saves for one block."""
    last = block == transformer.layers - 1
    image = _attention(run, at=f"transformer_blocks.{block}.attn", names=("to_q", "to_k", "to_v", "to_out.0"))
    image += _query_norms(run) if transformer.qk_norm else 0
    image += _mlp(run, at=f"transformer_blocks.{block}.ff")
    if block in transformer.dual_attention_layers:
        names = ("to_q", "to_k", "to_v", "to_out.0")
        image += _attention(run, at=f"transformer_blocks.{block}.attn2", names=names) - run.norm_bytes
        image += _query_norms(run) if transformer.qk_norm else 0
    names = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    text = _attention(run, at=f"transformer_blocks.{block}.attn", names=names)
    text += _query_norms(run) if transformer.qk_norm else 0
    text += 0 if last else _mlp(run, at=f"transformer_blocks.{block}.ff_context")
    per_image = run.image_tokens * image + run.text_tokens * text
    kept = run.images * per_image * transformer.width + (_measured(transformer, run, block) if run.lengths else 0)
    return kept + (0 if run.full else _cast_weights(transformer, run, block))


def _measured(transformer: Transformer, run: ForwardShape, block: int) -> int:
    """Bytes of what a DoRA's factors multiply: the outputs of its layers and of its matrices."""
    outputs = 0
    for layer in transformer.block(block):
        if layer.name in run.adapted:
            of_text = ".add_" in layer.name or ".to_add_out" in layer.name or ".ff_context." in layer.name
            outputs += layer.outputs * (run.text_tokens if of_text else run.image_tokens)
    return 2 * run.number * run.images * outputs


def _cast_weights(transformer: Transformer, run: ForwardShape, block: int) -> int:
    """Bytes of the bf16 copies of a frozen block's weights; no gradient goes through its timestep modulation."""
    if not run.casts_weights:
        return 0
    return BF16 * sum(layer.weights for layer in transformer.block(block) if ".norm1" not in layer.name)


def _attention(run: ForwardShape, *, at: str, names: tuple[str, str, str, str]) -> int:
    """Bytes saved per channel and token, from the norm before an attention to its output."""
    adapted = sum(f"{at}.{name}" in run.adapted for name in names[:3])
    kept = run.norm_bytes + _inputs(run, held=run.norm_bytes, adapted=adapted, layers=3)
    kept += 4 * run.number
    if run.full or f"{at}.{names[3]}" in run.adapted:
        kept += run.weight_bytes  # both streams' outputs are in one tensor; a layer makes its part contiguous
    if run.full:
        kept += run.norm_bytes + run.number  # for the gradients of scale and gate
    return kept


def _inputs(run: ForwardShape, *, held: int, adapted: int, layers: int) -> int:
    """Bytes saved of the input, `held` per value, that some linear layers share, `adapted` of them with a LoRA."""
    copied = layers if run.full else adapted
    copies = copied * run.weight_bytes if held != run.weight_bytes else 0
    shared = held if copied and not copies else 0
    return copies + shared


def _query_norms(run: ForwardShape) -> int:
    """Queries and keys before their norm, which squares them in fp32."""
    return 2 * (run.number + (FP32 if run.number == BF16 else 0) + (run.number if run.full else 0))


def _mlp(run: ForwardShape, *, at: str) -> int:
    """Bytes saved per channel and token, from the norm before the MLP to its output."""
    first, second = (f"{at}.{name}" in run.adapted for name in ("net.0.proj", "net.2"))
    kept = run.norm_bytes + _inputs(run, held=run.norm_bytes, adapted=int(first), layers=1)
    kept += MLP_RATIO * (run.number + _inputs(run, held=run.number, adapted=int(second), layers=1))
    if run.full:
        kept += run.norm_bytes + run.number
    return kept


def block_inputs(transformer: Transformer, run: ForwardShape) -> int:
    """Bytes of one block's inputs, the only tensors that checkpointing saves."""
    return run.tokens * transformer.width * run.number


def backward_transient(transformer: Transformer, run: ForwardShape) -> int:
    """Bytes of temporary gradients in the MLP, where a block peaks because of its fourfold width."""
    across = 2 * run.tokens * run.number
    return (across + 2 * MLP_RATIO * run.images * run.image_tokens * run.number) * transformer.width


def forward_transient(transformer: Transformer, run: ForwardShape) -> int:
    """Peak bytes of a block without a backward pass: before and after the MLP's activation."""
    dual = 2 if transformer.dual_attention_layers else 0
    image = run.number + run.norm_bytes + run.number * (1 + dual + 2 * MLP_RATIO)
    text = run.number + run.norm_bytes + run.number
    return run.images * (run.image_tokens * image + run.text_tokens * text) * transformer.width


def text_encoding(encoder: TextEncoder, *, tokens: int, number: int) -> int:
    """Peak bytes of a text encoder's pass over a batch of captions, in the MLP of a layer; number: bytes per value.

    T5's gated activation is computed in several steps; CLIP returns the hidden states of all layers.
    """
    if encoder.is_t5:
        return TEXT_ROWS * tokens * (4 * encoder.width + 4 * encoder.mlp) * number
    return TEXT_ROWS * tokens * ((encoder.layers + 2) * encoder.width + 3 * encoder.mlp) * number


def vae_encoding(vae: Vae, *, width: int, height: int, images: int, number: int) -> int:
    """Peak bytes of encoding images, in the second resnet at full resolution.

    It holds the first resnet's input, held by its caller, its output, the second's result, their sum, and the sum
    divided by its scale. CPUs copy a convolution's input to another memory layout, while there are four maps.
    """
    channels = 5 * vae.widths[0]
    return images * width * height * (channels * number + 3 * (FP32 + number))


def vae_decoding(vae: Vae, *, width: int, height: int, number: int, reorders: bool) -> int:
    """Peak bytes of decoding an image: the first resnet at full resolution has the previous block's input width.

    Images over a megapixel are decoded in tiles of one megapixel.
    """
    channels = 3 * vae.widths[1] + (vae.widths[0] if reorders else 0)
    at_once = min(width * height, 1024**2)
    return channels * at_once * number + 3 * width * height * (number + FP32)
