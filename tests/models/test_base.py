"""Some features of many, and states that are copied back."""

from __future__ import annotations

import pytest
import torch

from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.base import restore

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
    return Batch(
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
    assert few.user_num_SBD.shape == (2, 1, 0)
    assert few.user_cat_SBK.tolist() == [[[3]], [[2]]]
    assert few.user_weight_SBK.tolist() == [[[1.0]], [[1.0]]]
    assert few.video_num_SBCD.tolist() == [[[[0, 1], [4, 5]]], [[[8, 9], [12, 13]]]]
    assert few.video_cat_SBCK.tolist() == [
        [[[1, 4, 0, 5], [2, 0, 0, 9]]],
        [[[3, 1, 2, 6], [0, 0, 0, 7]]],
    ]
    assert few.video_weight_SBCK.tolist() == [
        [[[0.5, 0.5, 0, 0.5], [0.5, 0, 0, 0.5]]],
        [[[0.5, 0.5, 0.5, 0.5], [0.5, 0, 0, 0.5]]],
    ]
    assert few.video_cat_SBCK.dtype == torch.int32
    assert few.shape == (2, 1, 2)


def test_a_batch_of_users_features_alone_keeps_its_shape():
    few = batch().select(SCHEMA, ["fans"])
    assert few.shape == (2, 1, 2)
    assert few.user_num_SBD.tolist() == [[[0.5]], [[1.5]]]
    assert few.user_cat_SBK.shape == (2, 1, 0) and few.user_cat_SBK.dtype == torch.int32
    assert few.video_cat_SBCK.shape == few.video_weight_SBCK.shape == (2, 1, 2, 0)


def test_a_batch_of_all_features_is_the_same():
    all_of_it = batch().select(SCHEMA, SCHEMA.names)
    for name in Batch.__dataclass_fields__:
        ours, theirs = getattr(all_of_it, name), getattr(batch(), name)
        assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)


# --- states ----------------------------------------------------------------------------------


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
