"""What shards leave in their folders: whole, and merged as one shard would have said it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from realdataexp.errors import InputError
from realdataexp.loop import Step
from realdataexp.metrics import MetricValues
from realdataexp.runs.executors.chunks import (
    Chunk,
    file_of,
    flat,
    join,
    kept,
    merge,
    pack,
    read_chunk,
    read_packed,
    share_of,
    unpack,
    whole,
)
from realdataexp.runs.shard import Updates, Validation
from realdataexp.worlds.base import Visits

NAN = float("nan")


def assert_same(a: Tensor, b: Tensor) -> None:
    """To the bit."""
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    assert a.contiguous().numpy().tobytes() == b.contiguous().numpy().tobytes()


def assert_all_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert_same(a[name], b[name])


def test_a_chunk_comes_back_from_its_file_which_hides_no_code(tmp_path: Path):
    tensors = {"x": torch.tensor([[NAN, -0.0]]).T, "state.n": torch.tensor(7)}
    chunk = Chunk((3, 4), 5, 8, 7, {"figures": [["ä", ["auc"]]]}, 0.5, tensors)
    chunk.write(tmp_path / "c")
    found = read_chunk(tmp_path / "c")
    assert_all_same(found.tensors, tensors)
    rest = [{k: v for k, v in vars(x).items() if k != "tensors"} for x in (found, chunk)]
    assert rest[0] == rest[1] and [p.name for p in tmp_path.iterdir()] == ["c"]
    assert found.part("state").keys() == {"n"}


# Two groups (of blocks, or of models): replications 0 and 1 in one shard, 2 in the other.
ONE = {"R": torch.tensor([0, 1]), "W": torch.tensor([[0, 0], [1, 1], [10, 10], [11, 11]])}
OTHER = {"R": torch.tensor([2]), "W": torch.tensor([[2, 2], [12, 12]])}
BOTH = {"R": torch.tensor([0, 1, 2]), "W": torch.tensor([[x, x] for x in (0, 1, 2, 10, 11, 12)])}


def test_worlds_are_joined_group_by_group_in_any_order():
    assert_all_same(join([ONE, OTHER], [(0, 1), (2,)]), BOTH)
    assert_all_same(join([OTHER, ONE], [(2,), (0, 1)]), BOTH)


def test_three_shards_of_uneven_size_are_joined_in_their_order():
    shares = (0, 1), (2, 3, 4), (5, 6)
    parts = [{"S": torch.tensor([100 * g + r for g in range(3) for r in own])} for own in shares]
    found = join(parts, shares)["S"]
    assert found.tolist() == [100 * group + r for group in range(3) for r in range(7)]


def test_what_is_empty_typed_a_number_or_of_one_replication_stays_so_when_joined():
    parts = [
        {"x": torch.zeros(2 * n, 0, dtype=torch.bool), "step": torch.tensor(5)}
        | {f"a.replication_{r}.z": torch.ones(r) for r in own}
        for n, own in ((1, (0,)), (2, (1, 2)))
    ]
    found = join(parts, [(0,), (1, 2)])
    assert (found["x"].shape, found["x"].dtype) == ((6, 0), torch.bool)
    assert int(found["step"]) == 5
    assert [len(found[f"a.replication_{r}.z"]) for r in range(3)] == [0, 1, 2]


def test_a_state_is_handed_out_to_any_number_of_shards_and_comes_back():
    state = BOTH | {"n": torch.tensor(4), "d.replication_1.x": torch.ones(3)}
    for shares in ([(0, 1, 2)], [(0, 1), (2,)], [(1,), (0,), (2,)]):
        parts = [share_of(state, own, 3) for own in shares]
        assert [("d.replication_1.x" in x) for x in parts] == [1 in own for own in shares]
        assert_all_same(join(parts, shares), state)
    with pytest.raises(ValueError, match="x counts 4, which 3 replications cannot"):
        share_of({"x": torch.zeros(4)}, (0,), 3)


def test_what_is_packed_comes_back_and_a_packed_merge_is_that_of_what_is_in_it(tmp_path: Path):
    """Types, shapes of all kinds, empty ones, and what counts no replications."""

    def parts(own: tuple[int, ...]) -> Chunk:
        g, n = torch.Generator().manual_seed(own[0]), len(own)
        shapes = [(n,), (3 * n, 2), (3 * n, 2, 4), (n, 0), (n,), (3 * n, 1)]
        made = {f"x.{i}": torch.rand(shape, generator=g) for i, shape in enumerate(shapes)}
        made |= {f"b.{k}": x > 0.5 for k, x in made.items()}
        made |= {"n": torch.tensor(7), "state.d.replication_1.x": torch.ones(2)}
        made |= {"f64": torch.rand(n, 2, generator=g, dtype=torch.float64).T.contiguous().T}
        return Chunk(own, 0, 3, records={"updates": None}, tensors=made)

    own = (0, 1, 2), (3, 4), (5, 6, 7)
    found = [parts(x) for x in own]
    for i, chunk in enumerate(found):
        packed, layout = pack(chunk.tensors, len(chunk.replications))
        assert len(packed) == 7 and len(layout) == 5
        assert_all_same(unpack(packed, layout), chunk.tensors)
        chunk.write(file_of(tmp_path, i))
    again = [read_packed(file_of(tmp_path, i)) for i in range(3)]
    assert all(x.layout == again[0].layout for x in again)
    merged = merge(again, 8)
    assert merged.layout is None and len(merged.tensors) == len(found[0].tensors)
    assert_all_same(merged.tensors, merge(found, 8).tensors)
    (tmp_path / "chunk_000001.safetensors").write_bytes(b"cut")
    assert [x.number for x in kept(tmp_path)] == [0, 2]
    assert kept(tmp_path)[0].has_updates and kept(tmp_path)[0].has_state


def chunks() -> tuple[Chunk, Chunk]:
    return Chunk((0, 1), 0, 0, tensors=ONE), Chunk((2,), 0, 0, 0, tensors=OTHER)


def test_a_merge_is_free_of_order_and_changes_nothing_when_done_again():
    merged = merge(chunks(), 3)
    assert merged.replications == (0, 1, 2) and merged.idle_from is None
    assert_all_same(merged.tensors, BOTH)
    for again in (merge(chunks()[::-1], 3), merge([merged], 3)):
        assert_all_same(again.tensors, BOTH)


@pytest.mark.parametrize(
    ("places", "said"),
    [
        ((0,), "replication 2 is in no shard"),
        ((1,), "replication 0, 1 is in no shard"),
        ((0, 1, 1), "replication 2 is in two shards"),
        ((0, 0, 1), "replication 0, 1 is in two shards"),
    ],
)
def test_a_merge_refuses_missing_and_doubled_worlds(places: tuple[int, ...], said: str):
    with pytest.raises(InputError, match=said) as caught:
        merge([chunks()[i] for i in places], 3)
    assert len(caught.value.faults) == 1


def test_a_shard_that_failed_leaves_the_steps_that_all_have():
    full, cut = Chunk((0,), 3, 6), Chunk((1,), 3, 5)
    for chunk in (full, cut):
        for i in range(chunk.first, chunk.last):
            chunk.put(f"step.{i}", {"x": torch.ones(1) * i})
    full.put("validation", {"y": torch.ones(1)})
    found = merge([full, cut], 2)
    assert (found.first, found.last) == (3, 5) and [*found.records] == ["step.3", "step.4"]
    assert found.get("step.4")["x"].tolist() == [4.0, 4.0]
    assert found.tensors.keys() == {"step.3.x", "step.4.x"}


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
        real(S * R, 2),
        real(W, 2, L) if is_diagnosed else None, is_counted_WB=real(W, B) < 0.5,
        foretold_WBAJ=real(W, B, 2, L) if is_diagnosed else None,
        exposure={"shown": whole(W, 2, 7)},
    )  # fmt: skip


def assert_same_step(a: Step, b: Step) -> None:
    assert a.visits.step == b.visits.step
    pairs = [*zip(vars(a.visits).values(), vars(b.visits).values(), strict=True)][1:]
    pairs += [(x, y) for x, y in zip(vars(a).values(), vars(b).values(), strict=True)][2:-1]
    assert a.exposure.keys() == b.exposure.keys()
    pairs += [(x, b.exposure[name]) for name, x in a.exposure.items()]
    pairs += zip(a.unit_XRB, b.unit_XRB, strict=True)
    for x, y in pairs:
        assert (x is None) == (y is None)
        if x is not None:
            assert_same(x, y)


def chunk_of(step: Step, replications: tuple[int, ...]) -> Chunk:
    chunk = Chunk(replications, step.visits.step, step.visits.step + 1)
    chunk.put(f"step.{step.visits.step}", step)
    return chunk


@pytest.mark.parametrize("is_diagnosed", [True, False])
def test_a_step_comes_back_with_what_is_none_in_its_place(is_diagnosed: bool):
    step = a_step(is_diagnosed=is_diagnosed)
    found = chunk_of(step, (0, 1)).get("step.4")
    assert [x is None for x in found.unit_XRB] == [True, False, True]
    assert (found.score_share_WAL is None) == (not is_diagnosed)
    assert_same_step(found, step)


def test_a_step_of_two_shards_counts_the_worlds_of_both():
    steps = a_step(4), a_step(4)
    own = (0, 1), (2, 3)
    merged = merge([chunk_of(x, r) for x, r in zip(steps, own, strict=True)], 4)
    found = merged.get("step.4")
    assert found.visits.user_RB.tolist() == [
        *steps[0].visits.user_RB.tolist(), *steps[1].visits.user_RB.tolist()
    ]  # fmt: skip
    y_XRBL = [step.y_WBL.view(X, R, B, L) for step in steps]
    assert_same(found.y_WBL, torch.cat(y_XRBL, dim=1).view(-1, B, L))


def figures(label: str, metrics: str, n: int = 3) -> MetricValues:
    values = {m: torch.full((n,), ord(m[0]) / 7, dtype=torch.float64) for m in metrics.split()}
    values = {m: x.index_fill(0, torch.tensor([1]), NAN) for m, x in values.items()}
    counts = {m: torch.arange(n) + ord(m[0]) for m in values}
    return MetricValues(label, values, counts, torch.arange(n))


def a_look() -> Validation:
    return Validation(
        [figures("play", "z_loss mae a"), figures("click", "loss auc")],
        [(1, 0, figures("play", "ndcg b")), (0, 1, figures("click", "c"))],
        [{}, {"g": torch.rand(3, 2, 4), "is.on": torch.ones(3, 2, 4) > 0}, {}],
    )


def test_updates_come_back():
    updates = [
        Updates(torch.arange(3), torch.arange(3) + 1, torch.rand(3, 2), torch.rand(3, 1, 2)),
        Updates(torch.arange(3) + 5, torch.ones(3), torch.rand(3, 2), torch.rand(3, 2, 2)),
    ]
    for a, b in zip(read_again(updates), updates, strict=True):
        assert_all_same(vars(a), vars(b))


def assert_same_figures(a: MetricValues, b: MetricValues) -> None:
    assert a.label == b.label
    # the tables' rows come in this order
    assert [*a.values] == [*b.values] and [*a.counts] == [*b.counts]
    assert_all_same(a.values, b.values)
    assert_all_same(a.counts, b.counts)
    assert_same(a.n_nonfinite, b.n_nonfinite)


def read_again(look: Any) -> Any:
    """What comes back from a file, which holds JSON and tensors."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps(flat(look, "look", tensors))
    return whole(json.loads(text), "look", tensors)


def test_a_look_comes_back_with_its_metrics_in_their_order():
    look = a_look()
    found = read_again(look)
    for a, b in zip(found.predictions, look.predictions, strict=True):
        assert_same_figures(a, b)
    assert [x[:2] for x in found.rankings] == [[1, 0], [0, 1]]
    for (_, _, a), (_, _, b) in zip(found.rankings, look.rankings, strict=True):
        assert_same_figures(a, b)
    assert len(found.evidence) == 3
    for a, b in zip(found.evidence, look.evidence, strict=True):
        assert_all_same(a, b)


def test_a_look_without_rankings_or_evidence_comes_back():
    look = Validation([figures("play", "loss")], [], [{}])
    found = read_again(look)
    assert (found.rankings, found.evidence) == ([], [{}])
    assert_same_figures(found.predictions[0], look.predictions[0])
