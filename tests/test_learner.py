"""Laws of the learner: Adam and clipping per network, weights, masks, chunks, skipped updates."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from support import batch_of
from torch import Tensor

from realdataexp import draws
from realdataexp.device import Device, by_rows, choose_device
from realdataexp.learner import Head, Learner, OptimizerSettings, skipped_share
from realdataexp.models import LOSSES, MLP, Batch, FeatureSchema, LabelScale, SideSchema
from realdataexp.optimizers import cut

SCHEMA = FeatureSchema(
    SideSchema(2, (("level", 0, 1),), 4, (), (0,)),
    SideSchema(3, (("tag", 0, 2),), 5, (), (0,)),
)
S, B = 4, 6
CPU = Device(torch.device("cpu"), "test", 1 << 30)
FP16 = replace(CPU, amp=torch.float16)
SCALE = LabelScale(mean=1.0, sd=2.0, unit_sd=2.0)
NAN = math.nan


def learner_of(
    n: int = S, loss: str = "MSE", device: Device = CPU, like: Learner | None = None, **params: Any
) -> Learner:
    """Networks that differ, or copies of those of ``like``."""
    head = Head(LOSSES[loss], SCALE, 3 if loss == "CE" else 1)
    model = MLP(SCHEMA, head.n_outputs, {"hidden_layers": [5], **params}, "model_params")
    learner = Learner.start(model, (head,), device, model.init(draws.key(0, "i")), n)
    for name, p in learner.params.items():
        for s in range(n):
            p[s] = like.params[name][s] if like else model.init(draws.key(s, "i"))[name]
    return learner


def random_batch(seed: int = 0, shape: tuple[int, int, int] = (S, B, 1)) -> Batch:
    g = torch.Generator().manual_seed(seed)
    user, video = SCHEMA.user, SCHEMA.video
    return batch_of(
        torch.randn(*shape[:2], user.n_numerical, generator=g),
        torch.randint(0, user.n_ids, (*shape[:2], user.n_slots), generator=g).int(),
        torch.ones(*shape[:2], user.n_slots),
        torch.randn(*shape, video.n_numerical, generator=g),
        torch.randint(0, video.n_ids, (*shape, video.n_slots), generator=g).int(),
        torch.randint(0, 2, (*shape, video.n_slots), generator=g).float(),
    )


def labels(seed: int = 0, shape: tuple[int, int] = (S, B)) -> Tensor:
    """S, B, 1 of a single label."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (*shape, 1), generator=g).float()


def keys(n: int = S, step: int = 0) -> Tensor:
    return draws.key(0, "dropout", torch.arange(n), step)


def snapshot(learner: Learner, s: int) -> dict[str, list[int]]:
    """One network's whole state, as bits."""
    return {name: bits(x[s]) for name, x in learner.state().items()}


def moments(learner: Learner, name: str) -> tuple[Tensor, Tensor]:
    """Adam's two moments of a parameter."""
    place, shapes = list(learner.params).index(name), [p.shape for p in learner.params.values()]
    first, second = (cut(x, shapes)[place] for x in (learner.moment_1_SP, learner.moment_2_SP))
    return first, second


def bits(x: Tensor) -> list[int]:
    return x.reshape(-1).view(torch.int64 if x.element_size() == 8 else torch.int32).tolist()


def assert_same_network(ours: Learner, theirs: Learner, s: int) -> None:
    """Equal up to the rounding of sums, whose order depends on how many networks are stacked."""
    assert ours.n_updates_S[s] == theirs.n_updates_S[s]
    assert ours.n_skipped_S[s] == theirs.n_skipped_S[s]
    for name, p in ours.params.items():
        torch.testing.assert_close(p[s], theirs.params[name][s], rtol=0, atol=1e-5)
        (m, v), (expected_m, expected_v) = (moments(x, name) for x in (ours, theirs))
        torch.testing.assert_close(m[s], expected_m[s], rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(v[s], expected_v[s], rtol=1e-4, atol=1e-7)


def train(learner: Learner, n_steps: int = 3, settings: OptimizerSettings | None = None) -> None:
    for step in range(n_steps):
        learner.update(
            random_batch(step),
            labels(step),
            torch.ones(S, B),
            settings or OptimizerSettings(0.01),
            keys(step=step),
        )


def plain_training(
    learner: Learner, s: int, n_steps: int, settings: OptimizerSettings
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """One network trained by torch.optim.Adam: parameters and both moments."""
    names = list(learner.params)
    leaves = [p[s : s + 1].clone().requires_grad_() for p in learner.params.values()]
    adam = torch.optim.Adam(
        leaves, lr=settings.learning_rate, weight_decay=settings.weight_decay, foreach=False
    )
    for step in range(n_steps):
        adam.zero_grad()
        params = dict(zip(names, leaves, strict=True))
        raw = learner.model.forward(params, random_batch(step)[s : s + 1], None)
        learner.heads[0].loss.elementwise(
            raw[:, :, 0], labels(step)[s : s + 1, :, 0], SCALE
        ).mean().backward()
        if settings.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(leaves, settings.gradient_clip)
        adam.step()
    state = [adam.state[p] for p in leaves]
    return (
        {name: p.detach()[0] for name, p in zip(names, leaves, strict=True)},
        {name: x["exp_avg"][0] for name, x in zip(names, state, strict=True)},
        {name: x["exp_avg_sq"][0] for name, x in zip(names, state, strict=True)},
    )


def first_gradient(learner: Learner) -> dict[str, Tensor]:
    """The gradient of the only update so far: Adam's first moment is a tenth of it."""
    return {name: moments(learner, name)[0] * 10 for name in learner.params}


# --- the optimizer ---------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["MSE", "logMAE", "BCE", "CE"])
@pytest.mark.parametrize(
    "settings",
    [
        OptimizerSettings(0.01),
        OptimizerSettings(0.01, weight_decay=0.3),
        OptimizerSettings(0.01, gradient_clip=0.05),
        OptimizerSettings(0.01, weight_decay=0.3, gradient_clip=0.05),
    ],
    ids=["plain", "decay", "clip", "decay and clip"],
)
def test_each_network_is_trained_as_by_torch_adam(loss: str, settings: OptimizerSettings) -> None:
    learner = learner_of(loss=loss)
    start = learner.network(0)
    expected = [plain_training(learner, s, 7, settings) for s in range(S)]
    train(learner, 7, settings)
    for s, (params, moment_1, moment_2) in enumerate(expected):
        for name in params:
            torch.testing.assert_close(learner.params[name][s], params[name], rtol=0, atol=2e-5)
            torch.testing.assert_close(
                moments(learner, name)[0][s], moment_1[name], rtol=1e-3, atol=1e-6
            )
            torch.testing.assert_close(
                moments(learner, name)[1][s], moment_2[name], rtol=1e-3, atol=1e-8
            )
    moved = max(float((learner.params[n][0] - p).abs().max()) for n, p in start.items())
    assert moved > 0.05  # seven steps of 0.01, far more than the tolerance
    assert learner.n_updates_S.tolist() == [7] * S


def test_clipping_acts_on_the_whole_gradient_of_one_network() -> None:
    """A network with a large gradient neither shrinks another's nor clips tensor by tensor."""
    y_SBJ = labels()
    y_SBJ[2] = 1e4
    free, clipped = learner_of(), learner_of()
    for learner, settings in (
        (free, OptimizerSettings(0.01)),
        (clipped, OptimizerSettings(0.01, gradient_clip=5.0)),
    ):
        learner.update(random_batch(), y_SBJ, torch.ones(S, B), settings, keys())
    before, after = first_gradient(free), first_gradient(clipped)
    norms = torch.stack([g.flatten(1).square().sum(1) for g in before.values()]).sum(0).sqrt()
    assert float(norms[2]) > 100 and all(float(norms[s]) < 5 for s in (0, 1, 3))
    for name, g in before.items():
        for s in (0, 1, 3):
            assert torch.equal(after[name][s], g[s])
        torch.testing.assert_close(after[name][2], g[2] * 5 / norms[2], rtol=1e-4, atol=1e-6)


# --- weights and masks -----------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["MSE", "BCE", "CE"])
def test_the_gradient_is_that_of_the_mean_of_weight_times_loss(loss: str) -> None:
    learner = learner_of(loss=loss)
    batch, y_SBJ = random_batch(), labels()
    weight_SB = torch.tensor(
        [
            [1.0, 1, 1, 1, 1, 1],
            [2.0, 0, 2, 0, 2, 0],  # the same mean weight
            [0.5, 0.1, 0, 3, 0.7, 1],
            [0.0, 0, 0, 0, 0.25, 0],
        ]
    )
    y_SBJ[2, 1] = NAN  # missing: out of the mean
    weight_SB[2, 3] = NAN  # padding: out of the mean
    leaves = {name: p.clone().requires_grad_() for name, p in learner.params.items()}
    raw = learner.model.forward(leaves, batch, None)[:, :, 0]
    total, plain_means = torch.tensor(0.0), []
    for s in range(S):
        rows = [b for b in range(B) if s != 2 or b not in (1, 3)]
        terms = [learner.heads[0].loss.elementwise(raw[s, b], y_SBJ[s, b, 0], SCALE) for b in rows]
        weights = [weight_SB[s, b] for b in rows]
        total = total + sum(w * t for w, t in zip(weights, terms, strict=True)) / len(rows)
        learned = [float(t.detach()) for w, t in zip(weights, terms, strict=True) if w > 0]
        plain_means.append(sum(learned) / len(learned))
    expected = dict(zip(leaves, torch.autograd.grad(total, leaves.values()), strict=True))
    losses_SJ = learner.update(batch, y_SBJ, weight_SB, OptimizerSettings(0.01), keys())
    for name, g in first_gradient(learner).items():
        torch.testing.assert_close(g, expected[name], rtol=1e-4, atol=1e-6)
    assert losses_SJ[:, 0].tolist() == pytest.approx(plain_means, rel=1e-5)


def test_doubled_weights_double_the_gradient() -> None:
    once, twice = learner_of(), learner_of()
    for learner, weight in ((once, 1.0), (twice, 2.0)):
        learner.update(
            random_batch(),
            labels(),
            torch.full((S, B), weight),
            OptimizerSettings(0.01),
            keys(),
        )
    for name, g in first_gradient(once).items():
        torch.testing.assert_close(first_gradient(twice)[name], 2 * g, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("settings", [OptimizerSettings(0.1, 0.5), OptimizerSettings(0.1, 0.5, 1)])
@pytest.mark.parametrize("why", ["no weight", "no label", "padding"])
def test_a_network_with_nothing_to_learn_is_left_bit_for_bit_as_it_was(
    why: str, settings: OptimizerSettings
) -> None:
    learner = learner_of(dropout=0.3)
    train(learner)  # moments that would move on by themselves
    before = [snapshot(learner, s) for s in range(S)]
    y_SBJ, weight_SB = labels(9), torch.ones(S, B)
    if why == "no label":
        y_SBJ[1] = NAN
    else:
        weight_SB[1] = 0.0 if why == "no weight" else NAN
    losses_SJ = learner.update(random_batch(9), y_SBJ, weight_SB, settings, keys(step=9))
    assert snapshot(learner, 1) == before[1]
    assert torch.isnan(losses_SJ[:, 0]).tolist() == [False, True, False, False]
    assert learner.n_updates_S.tolist() == [4, 3, 4, 4]
    assert learner.n_skipped_S.tolist() == [0] * S
    for s in (0, 2, 3):
        assert snapshot(learner, s)["params.bias_0"] != before[s]["params.bias_0"]


def test_a_networks_step_count_is_its_own() -> None:
    """After steps in which it was masked, a network goes on as if they had not been."""
    masked, alone = learner_of(dropout=0.3), learner_of(dropout=0.3)
    settings = OptimizerSettings(0.05, weight_decay=0.1, gradient_clip=1.0)
    for step in range(6):
        weight_SB = torch.ones(S, B)
        weight_SB[0] = float(step % 2)
        batch, y_SBJ, key_S = random_batch(step), labels(step), keys(step=step)
        masked.update(batch, y_SBJ, weight_SB, settings, key_S)
        if step % 2:
            alone.update(batch, y_SBJ, weight_SB, settings, key_S)
    assert snapshot(masked, 0) == snapshot(alone, 0)
    assert masked.n_updates_S.tolist() == [3, 6, 6, 6]


def teach(anything: float) -> tuple[Learner, list[list[float]]]:
    """One update with ``anything`` in rows without a label or weight."""
    learner, batch, y_SBJ, weight_SB = learner_of(), random_batch(), labels(), torch.ones(S, B)
    batch.candidate["video_num"][:, 1:4] += min(anything, 100.0)
    y_SBJ[:, 2:4] += anything
    y_SBJ[:, 1], weight_SB[:, 2], weight_SB[:, 3] = NAN, 0.0, NAN
    return learner, learner.update(
        batch, y_SBJ, weight_SB, OptimizerSettings(0.01), keys()
    ).tolist()


@pytest.mark.parametrize("anything", [7.0, -1.0, 1e30])
def test_rows_without_label_or_weight_teach_nothing(anything: float) -> None:
    """Whatever stands in them, even a label whose loss is beyond float32."""
    learner, losses = teach(anything)
    plain, plain_losses = teach(0.0)
    assert learner.n_skipped_S.tolist() == [0] * S
    assert [snapshot(learner, s) for s in range(S)] == [snapshot(plain, s) for s in range(S)]
    assert losses == plain_losses


def test_an_infinite_label_is_a_missing_one() -> None:
    ends = []
    for missing in (NAN, math.inf, -math.inf):
        learner, y_SBJ = learner_of(), labels()
        y_SBJ[1, 2] = missing
        learner.update(random_batch(), y_SBJ, torch.ones(S, B), OptimizerSettings(0.01), keys())
        ends.append([snapshot(learner, s) for s in range(S)])
    assert ends[0] == ends[1] == ends[2]


# --- what is not finite ----------------------------------------------------------------------


@pytest.mark.parametrize("gradient_clip", [None, 1.0])
@pytest.mark.parametrize(("bad", "weight"), [(1e30, 1.0), (3e38, 1000.0)])
def test_an_update_that_is_not_finite_is_skipped_and_counted_for_that_network_only(
    bad: float, weight: float, gradient_clip: float | None
) -> None:
    learner, without = learner_of(dropout=0.3), learner_of(dropout=0.3)
    settings = OptimizerSettings(0.05, weight_decay=0.1, gradient_clip=gradient_clip)
    train(learner)
    train(without)
    before = snapshot(learner, 1)
    y_SBJ, weight_SB = labels(9), torch.ones(S, B)
    y_SBJ[1, 4], weight_SB[1, 4] = bad, weight  # its square, or its gradient too, is beyond float32
    learner.update(random_batch(9), y_SBJ, weight_SB, settings, keys(step=9))
    weight_SB[1] = 0.0
    without.update(random_batch(9), labels(9), weight_SB, settings, keys(step=9))
    assert learner.n_skipped_S.tolist() == [0, 1, 0, 0]
    assert learner.n_updates_S.tolist() == [4, 3, 4, 4]
    after = snapshot(learner, 1)
    assert {k: v for k, v in after.items() if k != "n_skipped"} == {
        k: v for k, v in before.items() if k != "n_skipped"
    }
    for s in (0, 2, 3):
        assert snapshot(learner, s) == snapshot(without, s)
    train(learner, 2)  # and it learns on
    assert learner.n_updates_S.tolist() == [6, 5, 6, 6]


def test_a_network_whose_parameters_are_not_finite_harms_no_other() -> None:
    learner, healthy = learner_of(), learner_of()
    learner.params["bias_0"][2] = NAN
    train(learner)
    train(healthy)
    assert learner.n_skipped_S.tolist() == [0, 0, 3, 0]
    for s in (0, 1, 3):
        assert snapshot(learner, s) == snapshot(healthy, s)


# --- chunks and worlds -----------------------------------------------------------------------


@pytest.mark.parametrize("embedding_dim", [None, 3])
@pytest.mark.parametrize("per_chunk", [1, 2])
def test_chunks_of_networks_change_nothing(per_chunk: int, embedding_dim: int | None) -> None:
    floats = learner_of(embedding_dim=embedding_dim).model.floats_per_row
    device = replace(CPU, chunk_bytes=per_chunk * 4 * B * floats)
    params = {"embedding_dim": embedding_dim, "dropout": 0.3}
    whole = learner_of(**params)
    cut = learner_of(device=device, **params)
    sizes = [c.stop - c.start for c in cut._chunks(slice(0, S), random_batch())]
    # a chunk of one left over joins the one before
    assert sizes == {1: [1] * 4, 2: [2, 2]}[per_chunk]
    settings = OptimizerSettings(0.05, weight_decay=0.1, gradient_clip=1.0)
    train(whole, 4, settings)
    train(cut, 4, settings)
    for s in range(S):
        assert_same_network(cut, whole, s)
    everyone, batch, y_SBJ = slice(0, S), random_batch(7), labels(7)
    close = {"rtol": 1e-3, "atol": 1e-4}
    ours, theirs = (x.predict(batch, everyone) for x in (cut, whole))
    torch.testing.assert_close(ours, theirs, **close)
    ours, theirs = (x.losses(batch, y_SBJ) for x in (cut, whole))
    torch.testing.assert_close(ours, theirs, **close)


def test_a_chunk_holds_at_least_one_network() -> None:
    learner = learner_of(device=replace(CPU, chunk_bytes=1))
    train(learner)
    assert learner.n_updates_S.tolist() == [3] * S


@pytest.mark.parametrize("embedding_dim", [None, 3])
def test_more_networks_change_no_networks_result(embedding_dim: int | None) -> None:
    params = {"embedding_dim": embedding_dim, "dropout": 0.3}
    many, few = learner_of(**params), learner_of(2, **params)
    settings = OptimizerSettings(0.05, 0.1, 1.0)
    for step in range(4):
        batch, y_SBJ, weight_SB = random_batch(step), labels(step), torch.ones(S, B)
        many.update(batch, y_SBJ, weight_SB, settings, keys(step=step))
        few.update(batch[:2], y_SBJ[:2], weight_SB[:2], settings, keys(step=step)[:2])
    for s in range(2):
        assert_same_network(few, many, s)


@pytest.mark.parametrize("n", [1, 63, 64, 65, 40_001])
def test_a_function_of_rows_gives_a_row_the_same_bits_in_every_place(n: int) -> None:
    g = torch.Generator().manual_seed(n)
    raw_XO, y_X = torch.randn(n, 1, generator=g) * 4, torch.rand(n, generator=g)

    def function(raw: Tensor, y: Tensor) -> Tensor:
        # softplus and sigmoid have other last bits outside of a vector loop
        return LOSSES["BCE"].elementwise(raw, y, SCALE) + LOSSES["BCE"].predict(raw, SCALE)

    result = by_rows(function, raw_XO, y_X)
    torch.testing.assert_close(result, function(raw_XO, y_X))
    order = torch.randperm(n, generator=g)
    assert bits(by_rows(function, raw_XO[order], y_X[order])) == bits(result[order])
    for x in range(0, n, 1 + n // 200):
        assert bits(by_rows(function, raw_XO[x], y_X[x])) == bits(result[x])


# --- predictions, losses, state --------------------------------------------------------------


@pytest.mark.parametrize("networks", [slice(0, S), slice(1, 3), slice(3, 4)], ids=str)
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
@pytest.mark.parametrize("loss", ["logMAE", "BCE", "CE"])
def test_predictions_and_losses_are_those_of_the_named_networks(
    loss: str, chunk_bytes: int, networks: slice
) -> None:
    learner = learner_of(loss=loss, device=replace(CPU, chunk_bytes=chunk_bytes), dropout=0.5)
    n = networks.stop - networks.start
    batch = random_batch(1, (n, B, 3))
    views = {name: p[networks] for name, p in learner.params.items()}
    raw = learner.model.forward(views, batch, None)
    predicted = learner.predict(batch, networks)
    assert predicted.shape == (n, B, 3, 1) and predicted.dtype == torch.float32
    torch.testing.assert_close(predicted[..., 0], learner.heads[0].loss.predict(raw, SCALE))
    y_SBJ = labels(1, (n, B))
    y_SBJ[0, 2] = NAN
    one = random_batch(1, (n, B, 1))
    losses = learner.losses(one, y_SBJ, networks)
    assert losses.shape == (n, B, 1)
    raw = learner.model.forward(views, one, None)[:, :, 0]
    expected = learner.heads[0].loss.elementwise(raw, y_SBJ[..., 0].nan_to_num(), SCALE)
    expected[0, 2] = NAN
    torch.testing.assert_close(losses[..., 0], expected.detach(), equal_nan=True)
    assert torch.equal(learner.predict(batch, networks), predicted)


@pytest.mark.parametrize("networks", [None, slice(1, 3)], ids=str)
@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
@pytest.mark.parametrize("loss", ["logMAE", "BCE", "CE"])
def test_an_evaluation_is_predictions_and_losses_at_once(
    loss: str, chunk_bytes: int, networks: slice | None
) -> None:
    learner = learner_of(loss=loss, device=replace(CPU, chunk_bytes=chunk_bytes), dropout=0.5)
    named = networks or slice(0, S)
    n, C = named.stop - named.start, 3
    batch, one = random_batch(1, (n, B, C)), random_batch(1, (n, B, 1))
    y_SBCJ = torch.stack([labels(c, (n, B)) for c in range(C)], dim=2)
    y_SBCJ[0, 2, 1] = y_SBCJ[1, 0] = NAN
    predicted, losses = learner.evaluate(batch, y_SBCJ, networks)
    assert predicted.shape == losses.shape == (n, B, C, 1)
    assert torch.equal(predicted, learner.predict(batch, named))
    assert torch.equal(losses.isnan(), y_SBCJ.isnan())
    views = {name: p[named] for name, p in learner.params.items()}
    raw = learner.model.forward(views, batch, None)
    expected = learner.heads[0].loss.elementwise(raw, y_SBCJ[..., 0].nan_to_num(), SCALE)
    expected[y_SBCJ[..., 0].isnan()] = NAN
    torch.testing.assert_close(losses[..., 0], expected, equal_nan=True)
    # one candidate a row
    predicted, losses = learner.evaluate(one, y_SBCJ[:, :, :1], networks)
    assert torch.equal(predicted, learner.predict(one, named))
    of_rows = learner.losses(one, y_SBCJ[:, :, 0], networks).unsqueeze(2)
    assert torch.equal(losses.nan_to_num(-1.0), of_rows.nan_to_num(-1.0))


def test_scoring_changes_no_state() -> None:
    learner = learner_of(dropout=0.5)
    train(learner)
    before = [snapshot(learner, s) for s in range(S)]
    learner.predict(random_batch(1, (S, B, 3)), slice(0, S))
    learner.losses(random_batch(1), labels())
    assert [snapshot(learner, s) for s in range(S)] == before


def test_dropout_acts_in_updates_by_its_key() -> None:
    ends = []
    for key_S in (keys(), keys(), keys(step=1)):
        learner = learner_of(dropout=0.5)
        learner.update(random_batch(), labels(), torch.ones(S, B), OptimizerSettings(0.01), key_S)
        ends.append([snapshot(learner, s) for s in range(S)])
    assert ends[0] == ends[1]
    assert all(ends[0][s] != ends[2][s] for s in range(S))


def test_the_state_is_everything_that_an_update_reads_or_writes() -> None:
    """Loaded into a fresh learner, it goes on to the bit."""
    settings = OptimizerSettings(0.05, 0.1, 1.0)
    learner, fresh = learner_of(dropout=0.3), learner_of(like=learner_of(), dropout=0.3)
    names = set(learner.params)
    alone = {"n_updates", "n_skipped", "rate_factor", "best", "n_bad", "moment_1", "moment_2"}
    assert set(learner.state()) == alone | {f"params.{name}" for name in names}
    train(learner, 3, settings)
    learner.n_skipped_S += 2
    fresh.load_state({name: x.clone() for name, x in learner.state().items()})
    assert fresh.n_skipped_S.tolist() == [2] * S and fresh.n_updates_S.tolist() == [3] * S
    train(learner, 2, settings)
    train(fresh, 2, settings)
    for s in range(S):
        assert snapshot(fresh, s) == snapshot(learner, s)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"moment_2": None}, "moment_2 is missing"),
        ({"params.bias_2": torch.zeros(S, 1)}, "params.bias_2 is unknown"),
        ({"params.bias_0": torch.zeros(S + 1, 5)}, "params.bias_0 is"),
        ({"n_updates": torch.zeros(S)}, "n_updates is torch.float32"),
    ],
)
def test_a_state_of_another_learner_is_refused(change: dict[str, Any], said: str) -> None:
    learner = learner_of()
    before = [snapshot(learner, s) for s in range(S)]
    state = {name: x + 1 for name, x in learner.state().items()} | change
    with pytest.raises(ValueError, match=said):
        learner.load_state({name: x for name, x in state.items() if x is not None})
    assert [snapshot(learner, s) for s in range(S)] == before


def test_start_makes_separate_copies_and_network_gives_one_back() -> None:
    model = MLP(SCHEMA, 1, {}, "model_params")
    start = model.init(draws.key(0, "init"))
    learner = Learner.start(model, (Head(LOSSES["MSE"], SCALE),), CPU, start, 3)
    assert learner.n_networks == 3
    for name, p in start.items():
        assert learner.params[name].shape == (3, *p.shape)
        assert all(torch.equal(learner.params[name][s], p) for s in range(3))
    taken = learner.network(1)
    learner.params["bias_0"][1] += 1.0
    assert torch.equal(taken["bias_0"], start["bias_0"])
    assert torch.equal(learner.params["bias_0"][2], start["bias_0"])


@pytest.mark.parametrize("embedding_dim", [None, 3])
def test_mixed_precision_is_close_and_keeps_parameters_in_float32(
    embedding_dim: int | None,
) -> None:
    exact = learner_of(embedding_dim=embedding_dim)
    amp = learner_of(embedding_dim=embedding_dim, device=choose_device("cpu", use_amp=True))
    batch = random_batch(5, (S, B, 3))
    ours, theirs = amp.predict(batch, slice(0, S)), exact.predict(batch, slice(0, S))
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0.05)
    assert not torch.equal(ours, theirs)
    train(exact)
    train(amp)
    for name, p in amp.params.items():
        assert p.dtype == torch.float32 and bool(torch.isfinite(p).all())
        torch.testing.assert_close(p, exact.params[name], rtol=0, atol=0.05)


# --- float16 ---------------------------------------------------------------------------------


def scale_of(learner: Learner) -> Tensor:
    assert learner.loss_scale is not None
    return learner.loss_scale.scale_S


def test_float16_trains_as_float32_does() -> None:
    exact, half = learner_of(dropout=0.3), learner_of(dropout=0.3, device=FP16)
    scale_of(half).fill_(2.0**8)  # small enough from the start
    train(exact, 20)
    train(half, 20)
    assert half.n_updates_S.tolist() == [20] * S
    for name, p in half.params.items():
        assert p.dtype == torch.float32
        torch.testing.assert_close(p, exact.params[name], rtol=0, atol=0.05)


def test_small_gradients_survive_float16() -> None:
    learners = [learner_of(device=device) for device in (CPU, FP16, FP16)]
    scale_of(learners[2]).fill_(1.0)
    for learner in learners:
        weight_SB = torch.full((S, B), 1e-7)
        learner.update(random_batch(), labels(), weight_SB, OptimizerSettings(0.01), keys())
    exact, scaled, plain = (x.moment_1_SP for x in learners)
    assert float((scaled - exact).norm()) < 0.01 * float(exact.norm())
    assert float((plain - exact).norm()) > 0.3 * float(exact.norm())


def test_scales_settle_for_each_network_and_the_search_is_no_failure() -> None:
    learner, alone = learner_of(device=FP16), learner_of(device=FP16)
    weight_SB = torch.ones(S, B)
    weight_SB[1] = 2.0**12  # its scaled gradients are the furthest beyond float16
    settings = OptimizerSettings(0.001, gradient_clip=1.0)
    scales = []
    for step in range(30):
        batch, y_SBJ, key_S = random_batch(step), labels(step), keys(step=step)
        learner.update(batch, y_SBJ, weight_SB, settings, key_S)
        alone.update(batch, y_SBJ, torch.ones(S, B), settings, key_S)
        scales.append(scale_of(learner).clone())
    assert torch.equal(scales[-1], scales[15])
    assert torch.equal(scales[-1], 2.0 ** (16 - (30 - learner.n_updates_S)))
    assert float(scales[-1][1]) < float(scales[-1].max()) / 2**8
    updates = learner.n_updates_S, learner.n_skipped_S
    assert learner.n_skipped_S.tolist() == [0] * S and not skipped_share(*updates).any()
    for s in (0, 2, 3):
        assert snapshot(learner, s) == snapshot(alone, s)


def test_in_float16_a_loss_that_is_not_finite_is_a_failure_and_leaves_the_scale() -> None:
    learner, y_SBJ = learner_of(device=FP16), labels()
    y_SBJ[1] = 1e30
    train(learner)
    before = snapshot(learner, 1)
    learner.update(random_batch(9), y_SBJ, torch.ones(S, B), OptimizerSettings(0.01), keys(step=9))
    assert learner.n_skipped_S.tolist() == [0, 1, 0, 0]
    after = snapshot(learner, 1)
    assert after.pop("n_skipped") != before.pop("n_skipped") and after == before


@pytest.mark.parametrize("chunk_bytes", [1, 1 << 30])
def test_a_float16_learner_goes_on_to_the_bit(chunk_bytes: int) -> None:
    device = replace(FP16, chunk_bytes=chunk_bytes)
    learner, fresh = (learner_of(device=device, dropout=0.3) for _ in range(2))
    assert set(learner.state()) - set(learner_of().state()) == {"loss_scale", "loss_scale_n_good"}
    scale_of(learner).copy_(2.0 ** torch.tensor([12, 16, 20, 24]))  # the last overflow
    train(learner, 3)
    assert len(set(learner.n_updates_S.tolist())) > 1
    fresh.load_state({name: x.clone() for name, x in learner.state().items()})
    train(learner, 5)
    train(fresh, 5)
    for s in range(S):
        assert snapshot(fresh, s) == snapshot(learner, s)
    with pytest.raises(ValueError, match="loss_scale is unknown"):
        learner_of().load_state(learner.state())
