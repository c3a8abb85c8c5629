"""The stacked linear model equals nn.Linear over numbers and one-hot columns."""

from __future__ import annotations

import pytest
import torch
from model_support import SCHEMAS, Plain, assert_equals_plain, fit, plain_one_hot, random_batch
from torch import Tensor

from realdataexp.errors import InputError
from realdataexp.models import MLP, Batch, FeatureSchema
from realdataexp.models.linear import Linear


def linear(schema: FeatureSchema, n_outputs: int = 2, **params: object) -> Linear:
    return Linear(schema, n_outputs, params, "labels.0.model_params")


class PlainLinear(Plain):
    def __init__(self, schema: FeatureSchema) -> None:
        super().__init__(schema)
        self.layer = self.one_hot_layer(2)

    def forward(self, rows: Batch) -> Tensor:
        return self.layer(plain_one_hot(self.schema, rows))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_the_stack_equals_plain_networks(schema: FeatureSchema) -> None:
    assert_equals_plain(linear(schema), schema, lambda: PlainLinear(schema))


def test_it_learns_a_linear_function_and_no_product() -> None:
    schema = SCHEMAS["categories and numbers"]
    batch = random_batch(schema, (2, 300, 1))
    kind, v = batch.visit["user_cat"][..., 0], batch.candidate["video_num"][:, :, 0]
    sum_SB = 2.0 * v[..., 0] - v[..., 2] + (kind % 2)
    before_S, after_S = fit(linear(schema, 1), batch, sum_SB, 800)
    assert bool((after_S < 0.01 * before_S).all())
    product_SB = v[..., 0] * v[..., 1]
    _, after_S = fit(linear(schema, 1), batch, product_SB, 800)
    assert bool((after_S > 0.8 * product_SB.square().mean(1)).all())


def test_it_is_an_mlp_without_hidden_layers() -> None:
    schema = SCHEMAS["mixed"]
    model, mlp = linear(schema), MLP(schema, 2, {"hidden_layers": []}, "x")
    params = {name: p.unsqueeze(0).double() for name, p in model.init(torch.tensor(3)).items()}
    batch = random_batch(schema, (1, 5, 4))
    assert torch.equal(model.forward(params, batch, None), mlp.forward(params, batch, None))
    assert model.floats_per_row == mlp.floats_per_row


def test_it_has_no_settings() -> None:
    with pytest.raises(InputError, match=r"^labels\.0\.model_params: hidden_layers: ") as caught:
        linear(SCHEMAS["mixed"], hidden_layers=(4,))
    assert "no settings here: remove it" in str(caught.value)
    assert "\n" not in str(caught.value)
