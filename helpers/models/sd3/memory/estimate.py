"""Estimates a run's memory from shapes and settings, before anything is loaded.

Standard library only. It counts what PyTorch allocates; benchmarks/memory.py compares it with measured peaks.
"""

from collections.abc import Iterable, Sequence

from helpers.config.optimizers import KINDS
from helpers.config.options.model import PrecisionOptions
from helpers.models.memory import MemoryEstimate, TrainingMemory, Workload
from helpers.models.sd3.memory import activations
from helpers.models.sd3.memory.architecture import Architecture, TextEncoder, Transformer
from helpers.models.sd3.memory.trainable_parameters import adapted_layers, adapter_ranks, pairs, trained_parameters

BYTES = {"bf16": activations.BF16, "fp32": activations.FP32}
QUANTO_BITS = {"int8-quanto": 8, "fp8-quanto": 8, "int4-quanto": 4, "int2-quanto": 2}
QUANTO_GROUP = 128
"""Values that share a scale and a zero point below 8 bits; at 8 bits a row shares a scale."""

STOCHASTIC_NUMBER_BYTES = 6 * 4
STOCHASTIC_NUMBERS = 2**24
"""Parameters that stochastic_adamw.py updates at once: gradient, moments, weight and random values, in fp32."""

CUDA_CONTEXT_BYTES = 600 * 10**6
"""Memory that CUDA, its libraries and kernels use on a device before the first tensor."""

LIBRARIES_BYTES = 700 * 10**6
"""CPU memory that Python, PyTorch, diffusers and transformers use before the first tensor."""

TOKENIZER_BYTES = 30 * 10**6
"""Memory of a tokenizer's vocabulary in the library."""

BATCHES_HELD = 6


def estimate_memory(architecture: Architecture, workload: Workload) -> MemoryEstimate:
    """The peaks of caching, training and validation; validation is 0 if no images are generated."""
    overhead = LIBRARIES_BYTES if workload.device == "cpu" else CUDA_CONTEXT_BYTES
    training = training_memory(architecture, workload)
    generating = validation_memory(architecture, workload)
    return MemoryEstimate(
        caching_bytes=caching_memory(architecture, workload) + overhead,
        training_bytes=training.total + overhead,
        validation_bytes=generating + overhead if workload.validation else 0,
        overhead_bytes=overhead,
        training=training,
    )


def _beside_adapter(transformer: Transformer, workload: Workload) -> int:
    """Bytes of an adapter's frozen tensors: its initial values, and the squared row norms of a DoRA."""
    if workload.model_type == "full":
        return 0
    start = pairs(transformer, workload) if workload.keeps_start else 0
    squares = sum(layer.outputs for layer, _ in adapter_ranks(transformer, workload)) if workload.use_dora else 0
    return (start + squares) * activations.FP32


def _directions(transformer: Transformer, workload: Workload) -> int:
    """Bytes of SOAP's additional state: statistics and eigenvectors for each dimension that is not too large."""
    if workload.optimizer != "soap":
        return 0
    if workload.model_type == "full":
        sides = [side for layer in transformer.linears() for side in (layer.inputs, layer.outputs)]
    else:
        pairs = adapter_ranks(transformer, workload)
        sides = [side for layer, rank in pairs for side in (rank, layer.inputs, layer.outputs, rank)]
    longest = next(key.default for key in KINDS["soap"].settings if key.name == "max_precondition_dim")
    return sum(2 * activations.FP32 * side**2 for side in sides if side <= longest)


def transformer_bytes(transformer: Transformer, precision: PrecisionOptions) -> int:
    """Bytes of the frozen transformer and its table of positions, as stored."""
    number = _base_bytes(precision)
    unquantized = (transformer.parameters + transformer.positions) * number
    blocks = [layer for index in range(transformer.layers) for layer in transformer.block(index)]
    weights, rows = sum(layer.weights for layer in blocks), sum(layer.outputs for layer in blocks)
    return unquantized - _saved_by_quantizing(weights, rows=rows, level=precision.base_model_precision, number=number)


def frozen_bytes(transformer: Transformer, workload: Workload) -> int:
    """Bytes of the frozen transformer on the device; offloaded blocks share two buffers, see performance/offload.py.

    On a CPU, both the blocks and the buffers are in its memory.
    """
    total = transformer_bytes(transformer, workload.precision)
    away = range(transformer.layers)[-workload.offload_blocks :] if workload.offload_blocks else ()
    sizes = [_block_bytes(transformer, workload.precision, block) for block in away]
    buffers = min(2, len(sizes)) * max(sizes, default=0)
    return total + buffers - (sum(sizes) if workload.device != "cpu" else 0)


def _still_bytes(transformer: Transformer, workload: Workload) -> int:
    """Bytes of the frozen weights in full finetuning."""
    still = transformer.parameters - trained_parameters(transformer, workload)
    return (transformer.positions + still) * _base_bytes(workload.precision)


def text_encoder_bytes(encoder: TextEncoder, *, level: str, number: int) -> int:
    """Bytes of a text encoder as stored; number: bytes per unquantized value."""
    saved = _saved_by_quantizing(encoder.linear_weights, rows=encoder.linear_rows, level=level, number=number)
    return encoder.parameters * number - saved


def caching_memory(architecture: Architecture, workload: Workload) -> int:
    """The largest encoder with its activations; only one encoder is loaded at a time."""
    precision = workload.precision
    number = _encoder_bytes(precision)
    needs = []
    for place, encoder in enumerate(architecture.text_encoders, 1):
        if workload.trains_text and not encoder.is_t5:
            continue
        level = precision.text_encoder_precision(place)
        held = text_encoder_bytes(encoder, level=level, number=number)
        if workload.device == "cpu" and level not in QUANTO_BITS and number == activations.FP32:
            held -= encoder.vocabulary * number * encoder.width  # memory-mapped, and few rows are read
        tokens = workload.t5_tokens if encoder.is_t5 else encoder.positions
        widest = encoder.mlp * encoder.width
        dequantized = _dequantized(widest, level=level, number=number)
        held += TOKENIZER_BYTES if workload.device == "cpu" else 0
        needs.append(held + dequantized + activations.text_encoding(encoder, tokens=tokens, number=number))
    number = _vae_bytes(precision)
    working = activations.vae_encoding(
        architecture.vae,
        width=workload.width,
        height=workload.height,
        images=workload.vae_batch_size,
        number=number,
    )
    needs.append(architecture.vae.parameters * number + working)
    return max(needs)


def training_memory(architecture: Architecture, workload: Workload) -> TrainingMemory:
    """The peak of training, from the second step on, when the optimizer has its state.

    The peak is at the end of the forward pass, at the end of the backward pass, or in the optimizer step.
    """
    transformer, precision = architecture.transformer, workload.precision
    full = workload.model_type == "full"
    number = _base_bytes(precision)
    clips = _learning_clips(architecture, workload)
    moving = trained_parameters(transformer, workload)
    moving += sum(_adapter_parameters(clip, rank=workload.lora_rank) for clip in clips.values())
    moving_bytes = number if full else activations.FP32
    gradients = 0 if workload.fused_backward else moving * moving_bytes
    forward, backward = (
        each + _clip_activations(clips.values(), workload) for each in _activations(architecture, workload)
    )
    already = gradients if workload.accumulation > 1 else 0
    highest = max(already + forward, gradients + backward, gradients + _step_bytes(workload, moving=moving))
    beside = architecture.vae.parameters * _vae_bytes(precision) if workload.keeps_vae else 0
    beside += _beside_adapter(transformer, workload)
    beside += activations.FP32 * moving if workload.keeps_average else 0
    for place, clip in clips.items():
        level = precision.text_encoder_precision(place)
        beside += text_encoder_bytes(clip, level=level, number=_encoder_bytes(precision))
    return TrainingMemory(
        weights=beside + (_still_bytes(transformer, workload) if full else frozen_bytes(transformer, workload)),
        trained=moving * moving_bytes,
        gradients=gradients,
        optimizer=KINDS[workload.optimizer].state_bytes_per_param * moving + _directions(transformer, workload),
        activations=highest - gradients,
    )


def validation_memory(architecture: Architecture, workload: Workload) -> int:
    """The peak of generating an image between two steps; all but gradients and activations stays in memory."""
    if workload.validation is None:
        return 0
    training = training_memory(architecture, workload)
    width, height = workload.validation
    sampled = _pass(architecture, workload, width=width, height=height, images=2 if workload.guided else 1)
    number = _vae_bytes(workload.precision)
    decoding = activations.vae_decoding(
        architecture.vae, width=width, height=height, number=number, reorders=workload.device == "cpu"
    )
    stays = training.weights + training.trained + training.optimizer
    if workload.keeps_average and workload.device == "cpu":
        stays += training.trained  # images use the average, while the current weights are kept
    loaded = 0 if workload.keeps_vae else architecture.vae.parameters * number
    working = activations.forward_transient(architecture.transformer, sampled)
    level = workload.precision.base_model_precision
    working += _dequantized(_largest_layer(architecture.transformer), level=level, number=sampled.base)
    return stays + max(working, loaded + decoding)


def _learning_clips(architecture: Architecture, workload: Workload) -> dict[int, TextEncoder]:
    """The text encoders that are trained, and so stay loaded, by number."""
    if not workload.trains_text:
        return {}
    return {place: each for place, each in enumerate(architecture.text_encoders, 1) if not each.is_t5}


def _adapter_parameters(clip: TextEncoder, *, rank: int) -> int:
    """Parameters of a LoRA on the four projections of each attention of a CLIP."""
    return clip.layers * 4 * rank * (clip.width + clip.inner)


def _clip_activations(clips: Iterable[TextEncoder], workload: Workload) -> int:
    """Bytes saved in the CLIPs' forward pass: each layer's input, the inputs of its norms, attention and MLP, and the
    LoRA's inputs in fp32; with checkpointing, all this for one layer, and only the inputs of the others."""
    total, number = 0, _encoder_bytes(workload.precision)
    for clip in clips:
        tokens = workload.batch_size * clip.positions
        per_layer = tokens * (8 * clip.width + 3 * clip.mlp) * number + tokens * 4 * clip.width * activations.FP32
        given = tokens * clip.width * number
        whole_layers = 1 if workload.gradient_checkpointing else clip.layers
        total += clip.layers * given + whole_layers * per_layer
    return total


def _activations(architecture: Architecture, workload: Workload) -> tuple[int, int]:
    """Bytes of activations at the end of the forward pass, and at the end of the backward pass."""
    transformer = architecture.transformer
    run = _pass(architecture, workload, width=workload.width, height=workload.height, images=workload.batch_size)
    kept = [activations.saved_activation_bytes(transformer, run, block=index) for index in range(transformer.layers)]
    transient = activations.backward_transient(transformer, run)
    batches = BATCHES_HELD if workload.device == "cpu" else 1
    read = batches * workload.batch_size * run.text_tokens * transformer.text_width * activations.BF16
    cast = activations.BF16 * transformer.parameters if run.full and run.casts_weights else 0
    level = workload.precision.base_model_precision
    transient += _dequantized(_largest_layer(transformer), level=level, number=run.base)
    if workload.use_dora and run.adapted and _base_bytes(workload.precision) != activations.FP32:
        # Row norms are computed in fp32, one layer at a time.
        transient += activations.FP32 * _largest_layer(transformer)
    away = workload.offload_activations and workload.device != "cpu"
    one_block = read + max(kept) + transient
    if workload.gradient_checkpointing and not away:
        interval, given = workload.checkpointing_interval, activations.block_inputs(transformer, run)
        stay, highest = _recomputing(kept, given=given, interval=interval)
        return max(read + cast + stay, read + highest + transient), one_block
    if workload.gradient_checkpointing:
        return max(read + cast, one_block), one_block
    return read + cast + (max(kept) if away else sum(kept)) + transient, one_block


def _recomputing(kept: Sequence[int], *, given: int, interval: int) -> tuple[int, int]:
    """Bytes saved for the backward pass, and the peak of the backward pass, when it recomputes a block.

    kept: bytes of each block. given: bytes of its input, all that is saved of every `interval`-th block. The backward
    pass has already freed the blocks after the current one.
    """
    stay = highest = 0
    for block, size in enumerate(kept):
        recomputed = block % interval == 0
        stay += given if recomputed else size
        highest = max(highest, stay + (size if recomputed else 0))
    return stay, highest


def _pass(
    architecture: Architecture, workload: Workload, *, width: int, height: int, images: int
) -> activations.ForwardShape:
    transformer, precision = architecture.transformer, workload.precision
    patch_px = architecture.vae.downscale * transformer.patch
    full = workload.model_type == "full"
    adapted = [] if full else adapted_layers(transformer, workload.lora_target)
    return activations.ForwardShape(
        image_tokens=(width // patch_px) * (height // patch_px),
        text_tokens=architecture.text_encoders[0].positions + workload.t5_tokens,
        images=images,
        base=_base_bytes(precision),
        autocast=_autocast(precision),
        norms_in_fp32=workload.device == "cuda",
        full=full,
        adapted=frozenset(layer.name for layer in adapted),
        lengths=workload.use_dora,
        quantized=precision.base_model_precision in QUANTO_BITS,
    )


def _block_bytes(transformer: Transformer, precision: PrecisionOptions, block: int) -> int:
    layers, number = list(transformer.block(block)), _base_bytes(precision)
    weights, rows = sum(layer.weights for layer in layers), sum(layer.outputs for layer in layers)
    saved = _saved_by_quantizing(weights, rows=rows, level=precision.base_model_precision, number=number)
    return number * sum(layer.parameters for layer in layers) - saved


def _saved_by_quantizing(weights: int, *, rows: int, level: str, number: int) -> int:
    """Bytes saved by quantizing `weights` values in `rows` rows, of `number` bytes each."""
    bits = QUANTO_BITS.get(level)
    if bits is None:
        return 0
    scales = rows * number if bits == 8 else 2 * number * weights // QUANTO_GROUP
    return weights * number - weights * bits // 8 - scales


def _dequantized(weights: int, *, level: str, number: int) -> int:
    """Bytes for computing with the largest quantized layer: its dequantized weight, and a temporary copy."""
    return 2 * number * weights if level in QUANTO_BITS else 0


def _largest_layer(transformer: Transformer) -> int:
    return max(layer.weights for index in range(transformer.layers) for layer in transformer.block(index))


def _step_bytes(workload: Workload, *, moving: int) -> int:
    """Bytes of temporary tensors in an optimizer step, besides its state."""
    return STOCHASTIC_NUMBER_BYTES * min(STOCHASTIC_NUMBERS, moving) if workload.optimizer == "adamw_bf16" else 0


def _autocast(precision: PrecisionOptions) -> bool:
    return precision.mixed_precision == "bf16"


def _encoder_bytes(precision: PrecisionOptions) -> int:
    return activations.BF16 if _autocast(precision) else activations.FP32


def _vae_bytes(precision: PrecisionOptions) -> int:
    return BYTES[precision.vae_dtype] if precision.vae_dtype else _encoder_bytes(precision)


def _base_bytes(precision: PrecisionOptions) -> int:
    if precision.base_model_default_dtype:
        return BYTES[precision.base_model_default_dtype]
    return activations.BF16 if precision.base_model_precision in QUANTO_BITS else _encoder_bytes(precision)
