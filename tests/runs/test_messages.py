"""What shards tell the run: whole, and put together as one shard would have said it."""

from __future__ import annotations

import json
import warnings

import pytest
import torch
from torch import Tensor

from realdataexp.loop import Step
from realdataexp.metrics import Figures
from realdataexp.runs.messages import dump, join, load, of_look, of_step, to_look, to_step
from realdataexp.runs.shard import Look, Updates
from realdataexp.worlds.base import Visits

NAN = float("nan")
WIDE = torch.arange(24, dtype=torch.float32).view(2, 3, 4)
TENSORS = {
    "bool": torch.tensor([True, False, True]),
    "int32": torch.tensor([[-(2**31), 2**31 - 1]], dtype=torch.int32),
    "int64": torch.tensor([-(2**63), 2**63 - 1]),
    "float32": torch.tensor([NAN, -0.0, torch.inf, 1e-45, 1 / 3]),
    "float64": torch.tensor([NAN, -0.0, -torch.inf, 5e-324, 1 / 3], dtype=torch.float64),
    "a number": torch.tensor(7),
    "empty": torch.zeros(0, 3),
    "no columns": torch.zeros(4, 0, dtype=torch.bool),
    "transposed": WIDE.transpose(0, 2),
    "every other": WIDE[:, :, ::2],
    "a later part": WIDE[1, 1:],
    "expanded": torch.tensor([[1], [2]], dtype=torch.int32).expand(2, 5),
    "a number expanded": torch.tensor(0.5).expand(3, 2),
}


def assert_same(a: Tensor, b: Tensor) -> None:
    """To the bit."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def assert_all_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert_same(a[name], b[name])


@pytest.mark.parametrize("kind", TENSORS)
def test_a_tensor_comes_back_to_the_bit(kind: str):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text, tensors = load(dump(None, {"x": TENSORS[kind]}))
    assert text is None
    assert_all_same(tensors, {"x": TENSORS[kind]})


@pytest.mark.parametrize(
    "text", [None, 7, "nobody", "ä\n\ud800", ["steps", 0, 5], {"a": [[1, "b"]]}]
)
def test_a_text_comes_back_with_all_tensors_or_none(text: object):
    assert load(dump(text, {})) == (text, {})
    found, tensors = load(dump(text, TENSORS))
    assert found == text
    assert_all_same(tensors, TENSORS)


def test_a_message_is_json_and_safetensors_that_no_code_hides_in():
    message = dump({"a": 1}, {"x": torch.ones(2)})
    n = int.from_bytes(message[:8], "little")
    assert json.loads(message[8 : 8 + n]) == {"a": 1}
    n_header = int.from_bytes(message[8 + n : 16 + n], "little")
    header = json.loads(message[16 + n : 16 + n + n_header])
    assert header["x"]["dtype"] == "F32"


def test_worlds_are_joined_group_by_group():
    """Two groups (of blocks, or of models): replications 0, 1 in one shard and 2 in the other."""
    one = {"R": torch.tensor([0, 1]), "W": torch.tensor([[0, 0], [1, 1], [10, 10], [11, 11]])}
    other = {"R": torch.tensor([2]), "W": torch.tensor([[2, 2], [12, 12]])}
    found = join([one, other], [2, 1])
    assert found["R"].tolist() == [0, 1, 2]
    assert found["W"].tolist() == [[0, 0], [1, 1], [2, 2], [10, 10], [11, 11], [12, 12]]


def test_three_shards_of_uneven_size_are_joined_in_their_order():
    parts = [
        {"S": torch.tensor([100 * group + r for group in range(3) for r in own])}
        for own in ((0, 1), (2, 3, 4), (5, 6))
    ]
    found = join(parts, [2, 3, 2])["S"]
    assert found.tolist() == [100 * group + r for group in range(3) for r in range(7)]


def test_what_is_empty_or_typed_stays_so_when_joined():
    parts = [{"x": torch.zeros(n, 0, dtype=torch.bool), "y": torch.ones(n).int()} for n in (2, 4)]
    found = join(parts, [1, 2])
    assert (found["x"].shape, found["x"].dtype) == ((6, 0), torch.bool)
    assert found["y"].dtype == torch.int32


R, B, L, X, S = 2, 3, 2, 3, 5


def a_step(number: int = 4, *, is_diagnosed: bool = True) -> Step:
    """Made-up tensors of the types and shapes of a step."""
    g = torch.Generator().manual_seed(number)

    def real(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.rand(shape, generator=g, dtype=dtype)

    def whole(*shape: int) -> Tensor:
        return torch.randint(0, 9, shape, generator=g)

    visits = Visits(
        number, whole(R), whole(R, B), real(R, B) < 0.5, real(R, B, dtype=torch.float64),
        whole(R, B), real(R, dtype=torch.float64),
    )  # fmt: skip
    W = X * R
    return Step(
        visits, (None, whole(R, B), None), real(W, B) < 0.5, real(W, B) < 0.5, real(W, B, L),
        real(W, B) < 0.5, whole(W, B), real(S * R, L), real(S * R, B, L), real(S * R, B, L),
        real(W, 2, L) if is_diagnosed else None,
    )  # fmt: skip


def assert_same_step(a: Step, b: Step) -> None:
    assert a.visits.step == b.visits.step
    pairs = [*zip(vars(a.visits).values(), vars(b.visits).values(), strict=True)][1:]
    pairs += [(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)][2:]
    pairs += zip(a.unit_XRB, b.unit_XRB, strict=True)
    for x, y in pairs:
        assert (x is None) == (y is None)
        if x is not None:
            assert_same(x, y)


@pytest.mark.parametrize("is_diagnosed", [True, False])
def test_a_step_comes_back_with_what_is_none_in_its_place(is_diagnosed: bool):
    step = a_step(is_diagnosed=is_diagnosed)
    number, tensors = load(dump(*of_step(step)))
    assert number == 4
    found = to_step(number, tensors, X)
    assert [x is None for x in found.unit_XRB] == [True, False, True]
    assert (found.score_share_WAL is None) == (not is_diagnosed)
    assert_same_step(found, step)


def test_a_step_of_two_shards_counts_the_worlds_of_both():
    steps = a_step(4), a_step(5)
    found = to_step(4, join([of_step(step)[1] for step in steps], [R, R]), X)
    assert found.visits.user_RB.tolist() == [
        *steps[0].visits.user_RB.tolist(), *steps[1].visits.user_RB.tolist()
    ]  # fmt: skip
    y_XRBL = [step.y_WBL.view(X, R, B, L) for step in steps]
    assert_same(found.y_WBL, torch.cat(y_XRBL, dim=1).view(-1, B, L))


def figures(label: str, metrics: str, n: int = 3) -> Figures:
    values = {m: torch.full((n,), ord(m[0]) / 7, dtype=torch.float64) for m in metrics.split()}
    values = {m: x.index_fill(0, torch.tensor([1]), NAN) for m, x in values.items()}
    counts = {m: torch.arange(n) + ord(m[0]) for m in values}
    return Figures(label, values, counts, torch.arange(n))


def a_look() -> Look:
    return Look(
        [figures("play", "z_loss mae a"), figures("click", "loss auc")],
        [(1, 0, figures("play", "ndcg b")), (0, 1, figures("click", "c"))],
        [
            Updates(torch.arange(3), torch.arange(3) + 1, torch.rand(3, 2), torch.rand(3, 1, 2)),
            Updates(torch.arange(3) + 5, torch.ones(3), torch.rand(3, 2), torch.rand(3, 2, 2)),
        ],
        [{}, {"g": torch.rand(3, 2, 4), "is.on": torch.ones(3, 2, 4) > 0}, {}],
    )


def assert_same_figures(a: Figures, b: Figures) -> None:
    assert a.label == b.label
    # the tables' rows come in this order
    assert [*a.values] == [*b.values] and [*a.counts] == [*b.counts]
    assert_all_same(a.values, b.values)
    assert_all_same(a.counts, b.counts)
    assert_same(a.n_nonfinite, b.n_nonfinite)


def test_a_look_comes_back_with_its_metrics_in_their_order():
    look = a_look()
    found = to_look(*load(dump(*of_look(look))))
    for a, b in zip(found.predictions, look.predictions, strict=True):
        assert_same_figures(a, b)
    assert [x[:2] for x in found.rankings] == [(1, 0), (0, 1)]
    for (_, _, a), (_, _, b) in zip(found.rankings, look.rankings, strict=True):
        assert_same_figures(a, b)
    for a, b in zip(found.updates, look.updates, strict=True):
        assert_all_same(vars(a), vars(b))
    assert len(found.evidence) == 3
    for a, b in zip(found.evidence, look.evidence, strict=True):
        assert_all_same(a, b)


def test_a_look_without_rankings_or_evidence_comes_back():
    look = Look([figures("play", "loss")], [], [], [{}])
    found = to_look(*load(dump(*of_look(look))))
    assert (found.rankings, found.updates, found.evidence) == ([], [], [{}])
    assert_same_figures(found.predictions[0], look.predictions[0])
