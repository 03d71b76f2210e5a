"""DoRA on frozen layers of every precision: peft's own arithmetic needs weights that are not quantized."""

import torch
from torch import Tensor, nn

from helpers.models.quantization import dequantize


class Magnitude(nn.Module):
    """The length of each of a layer's rows, learned apart from their direction; stands where peft has its own.

    y = m / |W + s B A| (W + s B A) x + b, the norm taken of each row and held constant on the way back (Liu et al.
    2024, equations 5 and 11). `weight` is m [outputs] in fp32, and begins as |W + s B A|, so that nothing changes yet.
    """

    def __init__(self, base_layer: nn.Module, *, lora_A: nn.Module, lora_B: nn.Module, scaling: float) -> None:
        super().__init__()
        self.row_squares: Tensor
        self.register_buffer("row_squares", dequantize(base_layer).square().sum(dim=1), persistent=False)
        self.weight = nn.Parameter(self._norms(base_layer, down=lora_A, up=lora_B, scaling=scaling))

    def forward(
        self,
        x: Tensor,
        *,
        lora_A: nn.Module,
        lora_B: nn.Module,
        scaling: float,
        base_layer: nn.Module,
        base_result: Tensor | None = None,
        adapter_name: str = "",
    ) -> Tensor:
        """What is added to the frozen layer's output; peft's names and order.

        base_result: that output, where nothing of `x` was dropped out.
        """
        if base_result is None:
            base_result = base_layer(x.to(base_layer.weight.dtype))  # type: ignore[arg-type]
        assert base_result is not None
        if base_layer.bias is not None:
            base_result = base_result - base_layer.bias  # type: ignore[operator]
        factor = self.weight / self._norms(base_layer, down=lora_A, up=lora_B, scaling=scaling)
        return (factor - 1) * base_result + factor * scaling * lora_B(lora_A(x))

    @torch.no_grad()
    def _norms(self, base_layer: nn.Module, *, down: nn.Module, up: nn.Module, scaling: float) -> Tensor:
        """|W + s B A| of each row [outputs], in fp32.

        Of its square, |W|² is known and the rest a matter of [outputs, rank]: 2 s (W Aᵀ) · B + s² (B A Aᵀ) · B.
        """
        a, b = down.weight, up.weight
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        with torch.autocast(a.device.type, enabled=False):
            a, b = a.float(), b.float()
            added = 2 * scaling * (dequantize(base_layer) @ a.T) * b + scaling**2 * (b @ (a @ a.T)) * b
            return (self.row_squares + added.sum(dim=1)).clamp(min=0).sqrt()


def learn_magnitudes(denoiser: nn.Module, *, adapter: str) -> None:
    """Give each layer of the adapter a `Magnitude` that fits what the layer is now, in the place of peft's."""
    from peft.tuners.lora import Linear

    for layer in [module for module in denoiser.modules() if isinstance(module, Linear)]:
        layer.lora_magnitude_vector[adapter] = Magnitude(
            layer.get_base_layer(),
            lora_A=layer.lora_A[adapter],
            lora_B=layer.lora_B[adapter],
            scaling=layer.scaling[adapter],
        )
