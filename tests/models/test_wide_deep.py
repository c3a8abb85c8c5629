"""The stacked Wide & Deep equals a plain linear model plus a plain MLP."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_support import (
    NOTHING,
    SCHEMAS,
    Plain,
    S,
    assert_equals_plain,
    fit,
    plain_one_hot,
    random_batch,
    sides_of,
    stacked,
)
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.linear import Linear
from realdataexp.models.wide_deep import WideDeep

TWO = FeatureSchema(
    SideSchema(0, (("taste", 0, 1),), 3, (), (0,)),
    SideSchema(0, (("genre", 0, 1), ("tag", 1, 4)), 7, (), (0, 3)),
)


def wide_deep(schema: FeatureSchema, n_outputs: int = 2, **params: Any) -> WideDeep:
    params = {"hidden_layers": (6, 5), "embedding_dim": 3} | params
    return WideDeep(schema, n_outputs, params, "labels.0.model_params")


class PlainWideDeep(Plain):
    def __init__(self, schema: FeatureSchema, model: WideDeep) -> None:
        super().__init__(schema)
        options = model.options
        self.options, dim, widths = options, options.embedding_dim, [*options.hidden_layers, 2]
        self.wide = self.one_hot_layer(2, "wide.")
        self.embeddings = self.tables(dim, "deep.")
        self.first = self.embedded_layer(widths[0], dim, "deep.")
        self.rest = self.hidden(widths, options, activates_input=True, prefix="deep.")
        if options.crosses:
            n = len(options.crosses) * options.cross_buckets
            self.cross = nn.Embedding(n, 2, dtype=torch.float64)
            self.tie("wide.cross", self.cross.weight)

    def forward(self, rows: Batch) -> Tensor:
        wide = self.wide(plain_one_hot(self.schema, rows))
        deep = self.rest(self.first(self.embedded(self.embeddings, rows)))
        return wide + deep + self.crossed(rows)

    def crossed(self, rows: Batch) -> Tensor:
        """One row, one pair and one combination at a time."""
        entries: dict[str, tuple[Tensor, Tensor]] = {}
        for side, _, cat, weight in sides_of(self.schema, rows):
            for name, first, end in side.fields:
                entries[name] = cat[:, first:end], weight[:, first:end]
        sums = []
        for row in range(len(rows.visit["user_num"])):
            total = torch.zeros(2, dtype=torch.float64)
            for i, (a, b) in enumerate(self.options.crosses):
                for left, left_weight in zip(*(x[row] for x in entries[a]), strict=True):
                    for right, right_weight in zip(*(x[row] for x in entries[b]), strict=True):
                        n = self.options.cross_buckets
                        bucket = int(draws.key(0, "cross", left, right)) % n + i * n
                        total = total + left_weight * right_weight * self.cross.weight[bucket]
            sums.append(total)
        return torch.stack(sums)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("normalization", ["none", "layer"])
def test_the_stack_equals_plain_networks(schema: FeatureSchema, normalization: str) -> None:
    model = wide_deep(schema, normalization=normalization)
    assert_equals_plain(model, schema, lambda: PlainWideDeep(schema, model))


def test_the_stack_equals_plain_networks_with_crosses() -> None:
    # across the sides, within a side, and one-hot as well as multi-hot
    crosses = (("level", "tag"), ("level", "range"), ("tag", "type"))
    schema = SCHEMAS["mixed"]
    model = wide_deep(schema, crosses=crosses, cross_buckets=11)
    assert_equals_plain(model, schema, lambda: PlainWideDeep(schema, model))


def test_without_the_deep_part_it_is_the_linear_model() -> None:
    schema = SCHEMAS["mixed"]
    model, batch = wide_deep(schema), random_batch(schema)
    params = stacked(model)
    wide = {k.removeprefix("wide."): p for k, p in params.items() if k.startswith("wide.")}
    silent = {
        k: torch.zeros_like(p) if k in ("deep.weight_2", "deep.bias_2") else p
        for k, p in params.items()
    }
    expected = Linear(schema, 2, {}, "x").forward(wide, batch, None)
    torch.testing.assert_close(model.forward(silent, batch, None), expected)
    assert not torch.allclose(model.forward(params, batch, None), expected, atol=1e-3)


def test_an_empty_slot_is_crossed_with_nothing() -> None:
    model = wide_deep(TWO, crosses=(("taste", "tag"),))
    params, batch = stacked(model), random_batch(TWO)
    leaf = params["wide.cross"].requires_grad_()
    (grad,) = torch.autograd.grad(model.forward(params, batch, None).square().sum(), leaf)
    for s in range(S):
        used = set()
        for b in range(batch.shape[1]):
            for c in range(batch.shape[2]):
                taste = batch.visit["user_cat"][s, b, 0]
                for slot in (1, 2, 3):
                    if batch.candidate["video_weight"][s, b, c, slot]:
                        tag = batch.candidate["video_cat"][s, b, c, slot]
                        used.add(int(draws.key(0, "cross", taste, tag)) % 1000)
        assert used
        assert set(grad[s].abs().sum(-1).nonzero().flatten().tolist()) == used


def test_cross_products_memorise_what_is_linear_in_none_of_its_parts() -> None:
    batch = random_batch(TWO, (2, 300, 1))
    taste, genre = batch.visit["user_cat"][..., 0], batch.candidate["video_cat"][:, :, 0, 0]
    y_SB = draws.uniform(draws.key(1, "combination", taste, genre), 1).squeeze(-1)
    # a deep part of one unit can do little here
    little = {"hidden_layers": (1,), "embedding_dim": 1}
    crossed = wide_deep(TWO, 1, crosses=(("taste", "genre"),), **little)
    _, with_S = fit(crossed, batch, y_SB, 600, 0.02)
    _, without_S = fit(wide_deep(TWO, 1, **little), batch, y_SB, 600, 0.02)
    assert bool((with_S < 0.1 * without_S).all())
    _, deep_S = fit(wide_deep(TWO, 1, hidden_layers=(32, 16)), batch, y_SB, 600)
    assert bool((deep_S < 0.3 * without_S).all())


def test_buckets_bound_the_table() -> None:
    model = wide_deep(TWO, crosses=(("taste", "genre"), ("tag", "genre")), cross_buckets=7)
    assert model.init(draws.key(0, "init"))["wide.cross"].shape == (14, 2)
    assert "wide.cross" not in wide_deep(TWO).init(draws.key(0, "init"))
    assert model.floats_per_row > wide_deep(TWO).floats_per_row


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"embedding_dim": None}, "embedding_dim = null: must be a whole number"),
        ({"cross_buckets": 0}, "cross_buckets = 0: must be at least 1"),
        ({"cross_buckets": 7}, "cross_buckets = 7: has no effect without crosses: leave it out"),
        ({"crosses": [["a"]]}, r"crosses: \[a\] must be two different features"),
        ({"crosses": [["a", "a"]]}, r"crosses: \[a, a\] must be two different features"),
        ({"crosses": [["a", "b"], ["b", "a"]]}, "crosses: each pair once: .*a and b"),
        ({"crosses": ["ab"]}, r"crosses\.0 = \"ab\": must be a list"),
        ({"cross": []}, r"cross: unknown key; did you mean crosses\?"),
    ],
)
def test_wrong_settings_are_one_line_with_their_path(params: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=rf"^labels\.0\.model_params: {line}") as caught:
        wide_deep(TWO, **params)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("schema", "known"), [(TWO, "taste, genre, tag"), (FeatureSchema(NOTHING, NOTHING), "none")]
)
def test_a_cross_of_an_unknown_feature_names_the_known(schema: FeatureSchema, known: str) -> None:
    with pytest.raises(InputError, match=rf"model_params\.crosses: 'mood' .* there is: {known}$"):
        wide_deep(schema, crosses=(("mood", "genre"),))
