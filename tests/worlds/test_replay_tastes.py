"""Users' tastes, which group them, against the same in dense tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from realdataexp.config import load_config
from realdataexp.errors import Warnings
from realdataexp.runs.setup import set_up
from realdataexp.worlds import replay


@pytest.mark.parametrize("rows_at_once", [64, 1 << 22])
def test_tastes_are_the_mean_standardised_features_of_what_a_user_watched_before(
    small_settings: Callable[..., dict[str, Any]],
    monkeypatch: pytest.MonkeyPatch,
    rows_at_once: int,
):
    monkeypatch.setattr(replay, "_ROWS_AT_ONCE", rows_at_once)
    environment = set_up(load_config(small_settings()), Warnings()).environment
    table, rows, log = (
        environment._features.video,
        environment._splits[0].pretrain,
        environment._data.log,
    )
    one_hot = np.zeros((len(table.num_XD), table.n_ids))
    for v, (ids, weights) in enumerate(zip(table.cat_XK, table.weight_XK, strict=True)):
        for i, weight in zip(ids, weights, strict=True):
            one_hot[v, i] += weight
    assert one_hot.max() == 1  # no category comes twice
    x_VD = np.concatenate([table.num_XD.astype(float), one_hot], axis=1)
    sd_D = x_VD.std(axis=0)
    x_VD = (x_VD - x_VD.mean(axis=0)) / np.where(sd_D > 1e-9, sd_D, 1.0)
    expected = np.zeros((log.n_users, x_VD.shape[1]))
    for user, (start, end) in enumerate(zip(rows.start_U, rows.end_U, strict=True)):
        if end > start:
            expected[user] = x_VD[log.video_N[start:end]].mean(axis=0)
    assert (rows.end_U > rows.start_U).sum() > 50
    np.testing.assert_allclose(environment.tastes(0), expected, atol=1e-6)
