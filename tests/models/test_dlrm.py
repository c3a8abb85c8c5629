"""The stacked DLRM equals plain networks of nn.Linear and nn.Embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_support import (
    SCHEMAS,
    Plain,
    assert_equals_plain,
    fit,
    plain_numbers,
    random_batch,
    stacked,
)
from torch import Tensor

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import Batch, FeatureSchema, SideSchema
from realdataexp.models.dlrm import DLRM

IDS = FeatureSchema(
    SideSchema(0, (("user", 0, 1),), 12, (), (0,)),
    SideSchema(0, (("author", 0, 1), ("tag", 1, 2)), 19, (), (0, 9)),
)


def dlrm(schema: FeatureSchema, n_outputs: int = 2, **params: Any) -> DLRM:
    params = {"hidden_layers": (6, 5), "bottom_layers": (7,), "embedding_dim": 3} | params
    return DLRM(schema, n_outputs, params, "labels.0.model_params")


class PlainDLRM(Plain):
    def __init__(self, schema: FeatureSchema, model: DLRM) -> None:
        super().__init__(schema)
        options, dim = model.options, model.options.embedding_dim
        self.embeddings = self.tables(dim)
        widths = [*options.bottom_layers, dim]
        no_ids = FeatureSchema(
            *(SideSchema(x.n_numerical, (), 0) for x in (schema.user, schema.video))
        )
        self.schema = no_ids
        self.first = self.one_hot_layer(widths[0], "bottom.")
        self.schema = schema
        self.bottom = self.hidden(widths, options, activates_input=True, prefix="bottom.")
        n = 1 + len(schema.user.fields) + len(schema.video.fields)
        widths = [dim + n * (n - 1) // 2, *options.hidden_layers, 2]
        self.top = self.hidden(widths, options, activates_input=False, prefix="top.")

    def forward(self, rows: Batch) -> Tensor:
        user, video = self.vectors(self.embeddings, rows)
        numbers = self.bottom(self.first(plain_numbers(self.schema, rows)))
        vectors = [numbers, *user, *video]
        dots = [
            (x * y).sum(1, keepdim=True) for i, x in enumerate(vectors) for y in vectors[i + 1 :]
        ]
        return self.top(torch.cat([numbers, *dots], dim=1))


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("bottom", [(), (7,), (5, 4)], ids=str)
def test_the_stack_equals_plain_networks(schema: FeatureSchema, bottom: tuple[int, ...]) -> None:
    model = dlrm(schema, bottom_layers=bottom)
    assert_equals_plain(model, schema, lambda: PlainDLRM(schema, model))


@pytest.mark.parametrize(
    "params", [{"hidden_layers": ()}, {"normalization": "layer"}, {"embedding_dim": 1}], ids=str
)
def test_other_settings_equal_plain_networks_too(params: dict[str, Any]) -> None:
    schema = SCHEMAS["mixed"]
    model = dlrm(schema, **params)
    assert_equals_plain(model, schema, lambda: PlainDLRM(schema, model))


def test_it_learns_how_well_a_user_s_and_an_author_s_vector_agree() -> None:
    batch = random_batch(IDS, (2, 400, 1))
    taste_VE = draws.uniform(draws.key(3, "taste", torch.arange(19)), 2).mul(4.0).sub(2.0)
    user = batch.visit["user_cat"][..., 0].long()
    author = batch.candidate["video_cat"][:, :, 0, 0].long()
    y_SB = (taste_VE[user] * taste_VE[author]).sum(-1)
    model = dlrm(IDS, 1, hidden_layers=(), embedding_dim=4)
    before_S, after_S = fit(model, batch, y_SB, 800, 0.02)
    assert bool((after_S < 0.02 * before_S).all())


def test_it_learns_a_function_of_the_numbers() -> None:
    schema = SCHEMAS["numbers"]
    batch = random_batch(schema, (2, 300, 1))
    y_SB = batch.visit["user_num"][..., 0].abs() - batch.candidate["video_num"][:, :, 0, 1]
    before_S, after_S = fit(dlrm(schema, 1, hidden_layers=(16,)), batch, y_SB, 600)
    assert bool((after_S < 0.05 * before_S).all())


def test_dots_of_embeddings_start_with_variance_one() -> None:
    schema = FeatureSchema(*(SideSchema(0, ((name, 0, 1),), 2000, (), (0,)) for name in "ab"))
    for dim in (2, 32):
        start = dlrm(schema, embedding_dim=dim).init(draws.key(0, "init"))
        dots = (start["user_embedding"] * start["video_embedding"]).sum(1)
        assert 0.8 < float(dots.std()) < 1.2


def test_the_bottom_and_the_top_have_dropout_masks_of_their_own() -> None:
    """Identity layers pass ones on; the bottom's second and the top's layer have one number."""
    schema, n = SCHEMAS["numbers"], 8
    layers = {"hidden_layers": (n,), "bottom_layers": (n, n), "embedding_dim": n}
    model = dlrm(schema, n, dropout=0.5, **layers)
    params = {name: torch.zeros_like(p) for name, p in stacked(model, 1).items()}
    params["bottom.bias_0"] += 1.0
    for name in ("bottom.weight_1", "bottom.weight_2", "top.weight_1", "top.weight_2"):
        params[name] += torch.eye(n)
    batch = random_batch(schema, (1, 300, 1))
    raw = model.forward(params, batch, draws.key(0, "dropout", torch.arange(1)))
    assert 0.1 < float((raw > 0).double().mean()) < 0.15  # an eighth survives three masks


def test_floats_per_row_grow_with_the_layers_and_the_fields() -> None:
    schema = SCHEMAS["mixed"]
    small = dlrm(schema).floats_per_row
    assert dlrm(schema, hidden_layers=(6, 9)).floats_per_row - small == 4
    assert dlrm(schema, bottom_layers=(9,)).floats_per_row - small == 2
    assert dlrm(schema, embedding_dim=4).floats_per_row > small
    assert small > dlrm(SCHEMAS["numbers"]).floats_per_row


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"bottom_layers": (0,)}, r"bottom_layers\.0 = 0: must be at least 1"),
        ({"embedding_dim": None}, "embedding_dim = null: must be a whole number"),
        ({"dropout": 1.0}, "dropout = 1.0: must be less than 1"),
        ({"botom_layers": (3,)}, r"botom_layers: unknown key; did you mean bottom_layers\?"),
    ],
)
def test_wrong_settings_are_one_line_with_their_path(params: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=rf"^labels\.0\.model_params: {line}") as caught:
        dlrm(SCHEMAS["mixed"], **params)
    assert "\n" not in str(caught.value)
