"""The stacked DCN-V2 equals plain networks of nn.Linear and nn.Embedding."""

from __future__ import annotations

import math
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
)
from torch import Tensor, nn

from realdataexp import draws
from realdataexp.errors import InputError
from realdataexp.models import Batch, FeatureSchema
from realdataexp.models.dcn_v2 import DCNv2


def dcn(schema: FeatureSchema, n_outputs: int = 2, **params: Any) -> DCNv2:
    params = {"hidden_layers": (6, 5), "embedding_dim": 3} | params
    return DCNv2(schema, n_outputs, params, "labels.0.model_params")


class PlainDCN(Plain):
    def __init__(self, schema: FeatureSchema, model: DCNv2) -> None:
        super().__init__(schema)
        self.options = options = model.options
        n = schema.user.n_numerical + schema.video.n_numerical
        n += (len(schema.user.fields) + len(schema.video.fields)) * options.embedding_dim
        self.embeddings = self.tables(options.embedding_dim)
        self.crosses = nn.ModuleList()
        for i in range(options.n_cross_layers):
            if options.rank is None:
                layer = self.linear(n, n, f"cross_weight_{i}", f"cross_bias_{i}")
                self.crosses.append(layer)
            else:
                down = self.linear(n, options.rank, f"cross_in_{i}")
                up = self.linear(options.rank, n, f"cross_out_{i}", f"cross_bias_{i}")
                self.crosses.append(nn.Sequential(down, up))
        widths = [n, *options.hidden_layers, 2]
        self.deep = self.hidden(widths, options, activates_input=False)
        if options.structure == "parallel":
            self.head = self.linear(n, 2, "cross_head")

    def forward(self, rows: Batch) -> Tensor:
        user, video = self.vectors(self.embeddings, rows)
        x0 = torch.cat([plain_numbers(self.schema, rows), *user, *video], dim=1)
        x = x0
        for cross in self.crosses:
            x = x0 * cross(x) + x
        if self.options.structure == "stacked":
            return self.deep(x)
        return self.deep(x0) + self.head(x)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize("rank", [None, 2])
def test_the_stack_equals_plain_networks(
    schema: FeatureSchema, structure: str, rank: int | None
) -> None:
    model = dcn(schema, structure=structure, rank=rank)
    assert_equals_plain(model, schema, lambda: PlainDCN(schema, model))


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize(
    "params",
    [
        {"hidden_layers": []},
        {"n_cross_layers": 1},
        {"n_cross_layers": 4, "normalization": "layer", "embedding_dim": 2},
    ],
    ids=str,
)
def test_other_depths_equal_plain_networks_too(structure: str, params: dict[str, Any]) -> None:
    schema = SCHEMAS["mixed"]
    model = dcn(schema, structure=structure, **params)
    assert_equals_plain(model, schema, lambda: PlainDCN(schema, model))


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
@pytest.mark.parametrize("rank", [None, 2])
def test_one_cross_layer_alone_learns_a_product(structure: str, rank: int | None) -> None:
    schema = SCHEMAS["numbers"]
    batch = random_batch(schema, (2, 300, 1))
    y_SB = batch.visit["user_num"][..., 0] * batch.candidate["video_num"][:, :, 0, 1]
    model = dcn(schema, 1, hidden_layers=[], n_cross_layers=1, structure=structure, rank=rank)
    before_S, after_S = fit(model, batch, y_SB, 800, 0.02)
    assert bool((after_S < 0.01 * before_S).all())


def test_a_product_of_three_needs_two_cross_layers() -> None:
    schema = SCHEMAS["numbers"]
    batch = random_batch(schema, (2, 300, 1))
    u, v = batch.visit["user_num"], batch.candidate["video_num"][:, :, 0]
    y_SB = u[..., 0] * v[..., 1] * v[..., 2]
    losses = [
        fit(dcn(schema, 1, hidden_layers=[], n_cross_layers=n), batch, y_SB, 1500, 0.02)[1]
        for n in (1, 2)
    ]
    assert bool((losses[1] < 0.05 * losses[0]).all())


def test_the_start_has_the_scale_of_torch_nn_linear() -> None:
    schema = SCHEMAS["mixed"]
    start = dcn(schema, rank=2, embedding_dim=16, structure="parallel").init(draws.key(0, "init"))
    D = 3 + 4 * 16
    assert start["cross_in_0"].shape == (D, 2) and start["cross_out_1"].shape == (2, D)
    fans = {"cross_in_0": D, "cross_out_0": 2, "cross_head": D, "weight_1": D, "weight_2": 6}
    for name, fan in fans.items():
        largest = float(start[name].abs().max())
        assert 0.8 < largest * math.sqrt(fan) <= 1.0 + 1e-6


def test_floats_per_row_grow_with_the_layers() -> None:
    schema = SCHEMAS["mixed"]
    D = 3 + 4 * 3
    small = dcn(schema, n_cross_layers=1).floats_per_row
    assert dcn(schema, n_cross_layers=2).floats_per_row - small == 2 * D
    assert dcn(schema, n_cross_layers=1, hidden_layers=(6, 9)).floats_per_row - small == 4


@pytest.mark.parametrize(
    ("params", "line"),
    [
        ({"n_cross_layers": 0}, "n_cross_layers = 0: must be at least 1"),
        ({"rank": 0}, "rank = 0: must be at least 1"),
        ({"structure": "serial"}, 'structure = "serial": must be one of stacked or parallel'),
        ({"embedding_dim": None}, "embedding_dim = null: must be a whole number"),
        ({"n_cross": 2}, r"n_cross: unknown key; did you mean n_cross_layers\?"),
    ],
)
def test_wrong_settings_are_one_line_with_their_path(params: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=rf"^labels\.0\.model_params: {line}") as caught:
        dcn(SCHEMAS["mixed"], **params)
    assert "\n" not in str(caught.value)
