"""What is done to inputs is done to each named tensor, by what it describes."""

from __future__ import annotations

import pytest
import torch
from support import batch_of

from realdataexp.models import Batch, FeatureSchema, Input, SideSchema

USER = SideSchema(1, (("degree", 0, 1),), 4, ("fans",), (0,))
VIDEO = SideSchema(
    4,
    (("type", 0, 1), ("tag", 1, 4), ("city", 4, 5)),
    13,
    ("length", "length", "age", "views"),
    (0, 3, 8),
)
SCHEMA = FeatureSchema(USER, VIDEO)
NOTHING = SideSchema(0, (), 0)


def batch() -> Batch:
    """Two networks, one visit, two candidates."""
    return batch_of(
        torch.tensor([[[0.5]], [[1.5]]]),
        torch.tensor([[[3]], [[2]]], dtype=torch.int32),
        torch.ones(2, 1, 1),
        torch.arange(16.0).view(2, 1, 2, 4),
        torch.tensor(
            [[[[0, 4, 7, 3, 8], [2, 5, 3, 3, 12]]], [[[1, 6, 4, 5, 9], [0, 3, 3, 3, 10]]]],
            dtype=torch.int32,
        ),
        torch.tensor([[[[1, 1, 1, 0, 1], [1, 1, 0, 0, 1]]], [[[1, 1, 1, 1, 1], [1, 1, 0, 0, 1]]]])
        * 0.5,
    )


def test_a_schemas_names_are_its_features_each_once():
    assert VIDEO.names == ("length", "age", "views", "type", "tag", "city")
    assert SCHEMA.names == ("fans", "degree", *VIDEO.names)
    assert NOTHING.names == ()


def test_a_narrower_schema_counts_columns_slots_and_ids_anew():
    video = SideSchema(3, (("tag", 0, 3), ("city", 3, 4)), 10, ("length", "length", "age"), (0, 5))
    names = ("city", "age", "tag", "length")
    assert SCHEMA.select(names) == FeatureSchema(NOTHING, video)
    assert SCHEMA.select(["type"]).video == SideSchema(0, (("type", 0, 1),), 3, (), (0,))
    assert SCHEMA.select(["fans"]) == FeatureSchema(SideSchema(1, (), 0, ("fans",)), NOTHING)
    assert SCHEMA.select(SCHEMA.names[::-1]) == SCHEMA
    assert SCHEMA.select(names).select(["city"]) == SCHEMA.select(["city"])


def test_a_narrower_batch_by_hand():
    few = batch().select(SCHEMA, ("city", "length", "tag", "degree"))
    assert "user_num" not in few.visit and few.side("user").num.shape == (2, 1, 0)
    assert few.visit["user_cat"].tolist() == [[[3]], [[2]]]
    assert few.visit["user_weight"].tolist() == [[[1.0]], [[1.0]]]
    assert few.candidate["video_num"].tolist() == [[[[0, 1], [4, 5]]], [[[8, 9], [12, 13]]]]
    assert few.candidate["video_cat"].tolist() == [
        [[[1, 4, 0, 5], [2, 0, 0, 9]]],
        [[[3, 1, 2, 6], [0, 0, 0, 7]]],
    ]
    assert few.candidate["video_weight"].tolist() == [
        [[[0.5, 0.5, 0, 0.5], [0.5, 0, 0, 0.5]]],
        [[[0.5, 0.5, 0.5, 0.5], [0.5, 0, 0, 0.5]]],
    ]
    assert few.candidate["video_cat"].dtype == torch.int32
    assert few.shape == (2, 1, 2)


def test_a_batch_of_users_features_alone_keeps_its_shape():
    few = batch().select(SCHEMA, ["fans"])
    assert few.shape == (2, 1, 2)
    assert few.visit["user_num"].tolist() == [[[0.5]], [[1.5]]]
    assert few.visit.keys() == {"user_num"} and few.candidate.keys() == {"video_num"}
    user, video = few.side("user"), few.side("video")
    assert user.cat.shape == (2, 1, 0) and user.cat.dtype == torch.int32
    assert [x.shape for x in video] == [(2, 2, 0)] * 3


def test_a_batch_of_all_features_is_the_same():
    all_of_it = batch().select(SCHEMA, SCHEMA.names)
    assert all_of_it.tensors.keys() == SCHEMA.inputs.keys()
    assert_same(all_of_it, batch())


# --- tensors of every kind -------------------------------------------------------------------

S, B, C, T = 2, 3, 4, 5
CODES = {
    "where": Input("visit", (2,)),
    "codes": Input("candidate", (3,), n_ids=50),
    "seen": Input("sequence", (T, 2)),
    "is_seen": Input("sequence", (T,)),
}


def assert_same(a: Batch, b: Batch) -> None:
    assert [of.keys() for of in vars(a).values()] == [of.keys() for of in vars(b).values()]
    for name, x in a.tensors.items():
        assert x.dtype == b.tensors[name].dtype and torch.equal(x, b.tensors[name])


def everything(n: int = S) -> Batch:
    """Tensors of each kind whose every number is another."""
    leading = {"visit": (n, B), "candidate": (n, B, C), "sequence": (n, B)}
    found: dict[str, dict[str, torch.Tensor]] = {axis: {} for axis in leading}
    for i, (name, x) in enumerate((FeatureSchema(USER, VIDEO, CODES)).inputs.items()):
        shape = (*leading[x.axis], *x.shape)
        found[x.axis][name] = 1000.0 * i + torch.arange(torch.Size(shape).numel()).view(shape)
    return Batch(**found)


def test_the_schema_names_every_tensor_that_has_a_column_and_that_of_the_candidates() -> None:
    inputs = FeatureSchema(USER, NOTHING, CODES).inputs
    assert list(inputs) == ["user_num", "user_cat", "user_weight", "video_num", *CODES]
    assert inputs["user_cat"] == Input("visit", (1,), n_ids=4)
    assert inputs["video_num"] == Input("candidate", (0,))


def test_networks_and_visits_are_taken_from_tensors_of_every_kind() -> None:
    batch = everything()
    place_B = torch.tensor([2, 0])
    for part, expected in (
        (batch[1:], lambda x: x[1:]),
        (batch[torch.tensor([1, 1, 0])], lambda x: x[[1, 1, 0]]),
        (batch.visits(place_B), lambda x: x[:, [2, 0]]),
        (batch[:1].expand(3), lambda x: torch.stack([x[0]] * 3)),
    ):
        assert part.tensors.keys() == batch.tensors.keys()
        assert all(torch.equal(x, expected(batch.tensors[k])) for k, x in part.tensors.items())
    assert_same(Batch.stacked([batch[:1], batch[1:]]), batch)


@pytest.mark.parametrize("n_designs", [1, 3])
def test_a_choice_picks_candidates_and_repeats_the_rest_for_worlds_that_share_inputs(
    n_designs: int,
) -> None:
    batch, W = everything(), S * n_designs
    choice_WB = torch.randint(C, (W, B), generator=torch.Generator().manual_seed(1))
    chosen = batch.chosen(choice_WB)
    assert chosen.shape == (W, B, 1)
    for w in range(W):
        for name, x in (batch.visit | batch.sequence).items():
            assert torch.equal(chosen.tensors[name][w], x[w % S])
        for name, x in batch.candidate.items():
            for b in range(B):
                expected = x[w % S, b, choice_WB[w, b]]
                assert torch.equal(chosen.tensors[name][w, b, 0], expected)


def test_what_is_no_feature_stays_when_features_are_selected() -> None:
    schema = FeatureSchema(USER, VIDEO, CODES)
    few = everything().select(schema, ["age"])
    assert few.tensors.keys() == {"video_num", *CODES} == schema.select(["age"]).inputs.keys()
    assert all(torch.equal(few.tensors[name], everything().tensors[name]) for name in CODES)


def test_a_batch_comes_back_from_its_state() -> None:
    state = everything().state()
    assert state.keys() >= {"visit.where", "candidate.codes", "sequence.seen", "visit.user_num"}
    assert_same(Batch.of_state(state), everything())
