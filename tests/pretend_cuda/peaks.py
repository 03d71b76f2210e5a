"""Peaks of memory at SD3's real shapes, counted on the hollow pretend device, and the estimates of them.

Run by test_pretend_cuda.py; `python -m tests.pretend_cuda.peaks` prints the table, on the pretend device.
"""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers import AutoTokenizer

from benchmarks import step_cases
from benchmarks.step_cases import Case, our_step
from helpers.config.options.model import LoraOptions, PrecisionOptions
from helpers.config.options.training import OptimizerOptions, RunOptions
from helpers.models.memory import Workload
from helpers.models.sd3.assets import ASSETS
from helpers.models.sd3.memory.activations import BF16, FP32, vae_encoding
from helpers.models.sd3.memory.architecture import KNOWN, Vae
from helpers.models.sd3.memory.estimate import caching_memory, estimate_memory
from helpers.models.sd3.text_encoders import T5Encoder
from helpers.models.sd3.vae import KlEncoder
from helpers.training.distributed.runtime import open_runtime
from tests.pretend_cuda import device
from tests.pretend_cuda.attention import use_attention_of_cuda

PIXELS = 1024
IMAGES = 4
INT8 = "int8-quanto"
MODELS = {name: architecture.transformer for name, architecture in KNOWN.items()}


@dataclass(frozen=True, kw_only=True)
class Row:
    """A way to train: of the table."""

    model: str = "SD3 medium"
    kind: str = "lora"
    batch: int = 1
    precision: str = "no_change"
    interval: int = 1
    offload: int = 0
    optimizer: str = "adamw"
    rank: int = 16

    def __str__(self) -> str:
        parts = [self.model, self.kind, f"rank {self.rank}" if self.kind == "lora" else self.optimizer, self.precision]
        parts += [f"batch {self.batch}", "checkpointed" if self.interval else "not checkpointed"]
        return ", ".join([*parts, *([f"{self.offload} blocks offloaded"] if self.offload else [])])


def counted(row: Row) -> int:
    """Bytes at the highest of a step, from the second on, when the optimizer has its state."""
    runtime = open_runtime(PrecisionOptions(), RunOptions())
    case = Case(
        model=row.model,
        kind=row.kind,
        pixels=PIXELS,
        batch=row.batch,
        precision=row.precision,
        interval=row.interval,
        offload=row.offload,
    )
    gc.collect()
    before = torch.cuda.memory_allocated()
    with (
        patch.object(step_cases, "MODELS", MODELS),
        patch.object(step_cases, "OptimizerOptions", lambda: OptimizerOptions(optimizer=row.optimizer)),
        patch.object(step_cases, "LoraOptions", lambda: LoraOptions(lora_rank=row.rank)),
    ):
        step: Callable[[], object] | None = our_step(case, runtime)
    assert step is not None
    step()
    torch.cuda.reset_peak_memory_stats()
    step()
    peak = torch.cuda.max_memory_allocated() - before
    step = None
    gc.collect()
    return peak


def estimated(row: Row) -> int:
    """Bytes of the estimate, without CUDA's own."""
    precision = replace(PrecisionOptions(mixed_precision="bf16"), base_model_precision=row.precision)
    workload = Workload(
        device="cuda",
        precision=precision.for_training(model_type=row.kind, optimizer=row.optimizer),
        model_type=row.kind,
        optimizer=row.optimizer,
        lora_rank=row.rank,
        batch_size=row.batch,
        width=PIXELS,
        height=PIXELS,
        gradient_checkpointing=row.interval > 0,
        checkpointing_interval=max(row.interval, 1),
        offload_blocks=row.offload,
    )
    estimate = estimate_memory(KNOWN[row.model], workload)
    return estimate.training_bytes - estimate.overhead_bytes


def encoding_counted(vae: Vae, dtype: torch.dtype) -> int:
    """Bytes at the highest of encoding IMAGES images, the VAE included."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    gc.collect()
    before = torch.cuda.memory_allocated()
    with torch.device("cuda"):
        model: Any = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(vae.widths),
            up_block_types=("UpDecoderBlock2D",) * len(vae.widths),
            block_out_channels=vae.widths,
            layers_per_block=vae.resnets,
            latent_channels=vae.channels,
            use_quant_conv=vae.quant_convolutions,
            use_post_quant_conv=vae.quant_convolutions,
        )
    encoder = KlEncoder.__new__(KlEncoder)  # made otherwise of a file of weights
    encoder._model = nn.Module.to(model, dtype).requires_grad_(False)
    encoder._wanted = SimpleNamespace(device=torch.device("cuda"), dtype=dtype, images_at_once=IMAGES)
    torch.cuda.reset_peak_memory_stats()
    encoder.encode(torch.zeros(IMAGES, PIXELS, PIXELS, 3, dtype=torch.uint8))
    return torch.cuda.max_memory_allocated() - before


def captions_counted() -> int:
    """Bytes at the highest of encoding a batch of captions by T5 in bf16, T5 included."""
    from transformers import T5Config, T5EncoderModel

    shape = KNOWN["SD3 medium"].text_encoders[2]
    config = T5Config(
        vocab_size=shape.vocabulary,
        d_model=shape.width,
        d_kv=shape.inner // shape.heads,
        d_ff=shape.mlp,
        num_layers=shape.layers,
        num_heads=shape.heads,
        feed_forward_proj="gated-gelu",
    )
    gc.collect()
    before = torch.cuda.memory_allocated()
    with torch.device("meta"):
        model = T5EncoderModel(config).to(torch.bfloat16)
    encoder = T5Encoder.__new__(T5Encoder)  # made otherwise of files of weights
    encoder._tokenizer = AutoTokenizer.from_pretrained(ASSETS / "tokenizer_3")
    encoder._model = model.to_empty(device="cuda").eval()
    model.encoder.embed_tokens.weight = model.shared.weight  # one tensor, as loading leaves it
    encoder._device = torch.device("cuda")
    encoder._length, encoder._mask_padding = 77, False
    torch.cuda.reset_peak_memory_stats()
    encoder.encode(["a red square"])
    return torch.cuda.max_memory_allocated() - before


ROWS = (
    Row(),
    Row(batch=8),
    Row(interval=0),
    Row(interval=0, batch=8),
    Row(interval=2, batch=8),
    Row(precision=INT8),
    Row(precision=INT8, batch=8),
    Row(precision=INT8, offload=24),
    Row(precision="int4-quanto"),
    Row(kind="full", optimizer="adamw_bf16"),
    Row(kind="full"),
    Row(model="SD3.5 medium"),
    Row(model="SD3.5 medium", batch=8, rank=64),
    Row(model="SD3.5 medium", precision=INT8),
    Row(model="SD3.5 medium", kind="full", optimizer="adamw_bf16", batch=16),
    Row(model="SD3.5 large", rank=32),
    Row(model="SD3.5 large", batch=8),
    Row(model="SD3.5 large", precision=INT8),
    Row(model="SD3.5 large", precision=INT8, offload=38),
    Row(model="SD3.5 large", kind="full", optimizer="adamw_bf16", batch=2),
)


@pytest.fixture(scope="module", autouse=True)
def hollow() -> None:
    """Nothing is computed in this process."""
    use_attention_of_cuda()
    device.compute_nothing()


@pytest.mark.parametrize(("dtype", "number"), [(torch.bfloat16, BF16), (torch.float32, FP32)], ids=["bf16", "fp32"])
def test_encoding_images_needs_what_was_estimated(dtype: torch.dtype, number: int) -> None:
    vae = KNOWN["SD3 medium"].vae
    working = vae_encoding(vae, width=PIXELS, height=PIXELS, images=IMAGES, number=number)
    assert vae.parameters * number + working == pytest.approx(encoding_counted(vae, dtype), rel=0.05)


def test_encoding_captions_needs_what_was_estimated() -> None:
    whole = KNOWN["SD3 medium"]
    workload = Workload(device="cuda", precision=PrecisionOptions(mixed_precision="bf16"), vae_batch_size=1)
    assert caching_memory(whole, workload) == pytest.approx(captions_counted(), rel=0.05)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_step_needs_what_was_estimated(row: Row) -> None:
    assert estimated(row) == pytest.approx(counted(row), rel=0.05)


def main() -> None:
    """Print counted and estimated GB (1e9) of each row."""
    use_attention_of_cuda()
    device.compute_nothing()
    for dtype in (torch.bfloat16, torch.float32):
        encoding = encoding_counted(KNOWN["SD3 medium"].vae, dtype)
        sys.stdout.write(f"encoding {IMAGES} images in {dtype}: {encoding / 1e9:.3f}\n")
    sys.stdout.write(f"encoding captions by T5 in bf16: {captions_counted() / 1e9:.3f}\n")
    for row in ROWS:
        peak, estimate = counted(row), estimated(row)
        sys.stdout.write(f"{row!s:70} {peak / 1e9:7.3f} {estimate / 1e9:7.3f} {estimate / peak - 1:+7.1%}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
