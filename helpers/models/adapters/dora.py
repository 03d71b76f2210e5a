"""DoRA on frozen layers of any precision; peft's own implementation needs unquantized weights."""

import torch
from torch import Tensor, nn

from helpers.models.quantization import dequantize


class Magnitude(nn.Module):
    """The trained norm of each row of a layer's weight, apart from its direction; replaces peft's module.

    y = m / |W + s B A| (W + s B A) x + b, with the norm of each row, treated as a constant in the backward pass (Liu
    et al. 2024, equations 5 and 11). `weight` is m [outputs] in fp32, initialized to |W + s B A|, so that the output is
    unchanged at first.
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
        """What is added to the frozen layer's output; argument names and order are peft's.

        base_result: that output, if no dropout was applied to `x`.
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
        """The norm |W + s B A| of each row [outputs], in fp32.

        In its square, |W|² is precomputed and the rest needs only [outputs, rank]: 2 s (W Aᵀ) · B + s² (B A Aᵀ) · B.
        """
        a, b = down.weight, up.weight
        assert isinstance(a, Tensor) and isinstance(b, Tensor)
        with torch.autocast(a.device.type, enabled=False):
            a, b = a.float(), b.float()
            added = 2 * scaling * (dequantize(base_layer) @ a.T) * b + scaling**2 * (b @ (a @ a.T)) * b
            return (self.row_squares + added.sum(dim=1)).clamp(min=0).sqrt()


def learn_magnitudes(denoiser: nn.Module, *, adapter: str) -> None:
    """Replace peft's magnitude in each layer of the adapter by a `Magnitude` initialized from the layer's weights."""
    from peft.tuners.lora import Linear

    for layer in [module for module in denoiser.modules() if isinstance(module, Linear)]:
        layer.lora_magnitude_vector[adapter] = Magnitude(
            layer.get_base_layer(),
            lora_A=layer.lora_A[adapter],
            lora_B=layer.lora_B[adapter],
            scaling=layer.scaling[adapter],
        )
