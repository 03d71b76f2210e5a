"""How far each level of quantizing may lead the transformer and each text encoder away from full precision."""

from collections.abc import Mapping

import torch
from torch import Tensor

from helpers.config.options.model import PrecisionOptions, TextOptions
from helpers.models.family import ModelComponents
from helpers.models.sd3.text_encoders import text_parts
from helpers.models.sd3.transformer import load_denoiser, predict

# Of the relative error, |with - without| / |without|, seen twice and thrice smaller. Those of 4 and 2 bits are in
# test_precision.py and test_text.py.
BOUNDS = {"int8-quanto": 0.03, "fp8-quanto": 0.08}


def outputs(parts: ModelComponents, level: str) -> dict[str, Tensor]:
    cpu = torch.device("cpu")
    precision = PrecisionOptions(mixed_precision="no", base_model_precision=level)
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        found = {
            "transformer": predict(
                load_denoiser(parts, precision, cpu),
                torch.randn(2, 16, 8, 8, generator=noise),
                torch.tensor([0.2, 0.9]),
                torch.randn(2, 20, 48, generator=noise),
                torch.randn(2, 40, generator=noise),
            )
        }
    encoded: Mapping[str, Mapping[str, Tensor]] = {
        part.name: part.load().encode(["a red square"]) for part in text_parts(parts, TextOptions(), precision, cpu)
    }
    return found | {name: each["hidden"] for name, each in encoded.items()}


def test_each_8_bit_level_keeps_its_bound_and_int8_is_the_finer(parts: ModelComponents) -> None:
    exact = outputs(parts, "no_change")
    rough = {level: outputs(parts, level) for level in BOUNDS}
    for name, want in exact.items():
        errors = {level: float((have[name].float() - want.float()).norm()) for level, have in rough.items()}
        assert 0 < errors["int8-quanto"] < errors["fp8-quanto"], name
        for level, bound in BOUNDS.items():
            assert errors[level] / float(want.float().norm()) < bound, (name, level)
