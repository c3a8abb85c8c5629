"""What plants a fault in a small subject's model, or trains it."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable
from typing import Any

from diagnose.subjects import planted, small_subject
from torch import Tensor, nn

from realdataexp.device import own_arithmetic
from realdataexp.diagnose.probes import pieces, updates
from realdataexp.diagnose.subject import Subject

KINDS = ("SASRec", "GRU4Rec", "Generative")
SIZES: dict[str, dict[str, Any]] = {
    name: {"name": "sequences", "synthetic": {"users": users, "items": items}}
    for name, users, items in (("small", 150, 80), ("middle", 600, 300), ("large", 2000, 400))
}


class Adapted(nn.Linear):
    """A linear layer with a low-rank addition that begins at zero."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs)
        self.down = nn.Linear(n_inputs, 2, bias=False)
        self.up = nn.Linear(2, n_outputs, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + self.up(self.down(x))


def subject_of_kind(name: str, **changes: Any) -> Subject:
    """The small training of one of our models."""
    if name == "Generative":
        return small_subject(**changes)
    return small_subject(model={"name": name, "width": 16}, items={}, **changes)


def with_model(subject: Subject, change: Callable[[Any], object]) -> Subject:
    """A subject whose every model is changed in place."""

    def model() -> nn.Module:
        made = subject.model()
        change(made)
        return made

    return planted(subject, model=model)


def trained(subject: Subject, n: int = 60, rate: float = 0.01) -> Subject:
    """A subject after some updates."""
    model = subject.model()
    with own_arithmetic():
        for _ in itertools.islice(updates(subject, model, pieces(subject, n, 32, 0), rate), n):
            pass
    return planted(subject, model=lambda: copy.deepcopy(model), is_trained=True)
