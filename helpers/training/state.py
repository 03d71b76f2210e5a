"""How far a run has come: the only thing about it that changes besides the weights and the optimizer."""

from dataclasses import dataclass, field

from helpers.dataloader.types import Position


@dataclass(kw_only=True)
class TrainState:
    """`step` optimizer steps are done; `position` is the place in the data's order that comes next."""

    step: int = 0
    position: Position = field(default_factory=Position)
