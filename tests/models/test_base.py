"""States that are copied back."""

from __future__ import annotations

import pytest
import torch

from realdataexp.models.base import restore


def test_restore_copies_into_the_live_tensors():
    live, saved = {"a": torch.zeros(2), "b": torch.tensor([1])}, torch.tensor([3.0, 4.0])
    a = live["a"]
    restore(live, {"b": torch.tensor([7]), "a": saved})
    saved += 1
    assert a.tolist() == [3.0, 4.0] and live["b"].tolist() == [7]
    restore({}, {})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"b": None}, "tensor b is missing"),
        ({"c": torch.zeros(2)}, "tensor c is unknown"),
        ({"b": torch.zeros(2)}, r"tensor b is torch.float32 \[2\] instead of .*int64 \[2\]"),
        ({"b": torch.zeros(1, dtype=torch.int64)}, r"tensor b is .* \[1\] instead of .* \[2\]"),
    ],
)
def test_what_is_no_such_state_is_named_and_nothing_is_copied(change, said):
    live = {"a": torch.zeros(2), "b": torch.zeros(2, dtype=torch.int64)}
    saved = {"a": torch.ones(2), "b": torch.ones(2, dtype=torch.int64)} | change
    with pytest.raises(ValueError, match=said):
        restore(live, {name: x for name, x in saved.items() if x is not None})
    assert not live["a"].any() and not live["b"].any()
