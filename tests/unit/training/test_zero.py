"""A model under DeepSpeed computes in the dtype that the run says."""

import torch
from torch import nn

from helpers.training.optim.zero import AutocastModule


def test_a_model_computes_as_told_where_autocast_was_turned_off_around_it() -> None:
    model = AutocastModule(nn.Linear(2, 2), lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    with torch.autocast("cpu", enabled=False):
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
