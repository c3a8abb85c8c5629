"""The simulated platform: its outcomes against a plain loop, and what its draws depend on."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations

import pytest
import torch
from frequencies import assert_frequencies
from scipy.stats import gamma
from support import CPU, FALSE_FAIL_RATE, batch_of, same
from torch import Tensor

from realdataexp import draws
from realdataexp.config import load_config
from realdataexp.errors import InputError
from realdataexp.models import Batch
from realdataexp.runs.experiment import check_experiment
from realdataexp.worlds.base import Slate, WorldSettings
from realdataexp.worlds.si2023 import OUTCOMES, Platform, Si2023, Si2023Config
from realdataexp.worlds.simulated import SimulatedEnvironment, SimulatedWorld

N = 200_000
CONFIG = Si2023Config(n_features=3, long_share=0.3, pretrain_rows=N)
SETTINGS = WorldSettings(3, (0, 1), 1, 5, 4, 6, 1, "visit")


def make_environment(seed: int = 3, **changes) -> SimulatedEnvironment:
    world = Si2023(name="si2023", si2023=CONFIG.model_copy(update=changes))
    return SimulatedEnvironment(world, seed, CPU)


def make_world(**changes) -> SimulatedWorld:
    return make_environment().world(OUTCOMES, replace(SETTINGS, **changes))


def plain_means(platform: Platform, config: Si2023Config, video: list[float]) -> list[float]:
    """The mean stay time and the probability to finish of one video, number by number."""
    k = 1 if video[-1] == 1.0 else 0
    stay = math.log((config.stay_time_short, config.stay_time_long)[k])
    finish = (config.finish_logit_short, config.finish_logit_long)[k]
    for d in range(config.n_features):
        stay += (video[d] - 0.5) * float(platform.stay_D2[d, k])
        finish += (video[d] - 0.5) * float(platform.finish_D2[d, k])
    return [math.exp(stay), 1 / (1 + math.exp(-finish))]


def assert_mean_stay(total: list[float], n: list[int], detects: float) -> None:
    """Sums of n exponential times, each over its mean: exact gamma tails, all false once in 1e6.

    A mean that is off by the share ``detects`` is found with a chance of 99.9 % or more.
    """
    tail = FALSE_FAIL_RATE / (2 * len(total))
    for x, k in zip(total, n, strict=True):
        low, high = gamma.ppf(tail, k), gamma.isf(tail, k)
        for scale in (1 - detects, 1 + detects):
            missed = gamma.cdf(high, k, scale=scale) - gamma.cdf(low, k, scale=scale)
            assert missed < 1e-3, f"{k} draws cannot tell a mean that is off by {detects}"
        assert low <= x <= high, f"{x} in {k} draws"


# --- the platform --------------------------------------------------------------------------


def test_coefficients_depend_on_the_worlds_seed_only():
    platform = Platform.draw(CONFIG)
    others = {"long_share": 0.7, "finish_logit_long": 2.0, "stay_time_short": 9.0}
    others |= {"pretrain_rows": 5}
    same_seed = [
        Platform.draw(CONFIG.model_copy(update=others)),
        Platform.draw(CONFIG),
    ]
    for other in same_seed:
        assert same(other.finish_D2, platform.finish_D2)
        assert same(other.stay_D2, platform.stay_D2)
    other = Platform.draw(CONFIG.model_copy(update={"world_seed": 1}))
    assert not (other.finish_D2 == platform.finish_D2).any()
    assert not (other.stay_D2 == platform.stay_D2).any()


def test_coefficients_fill_the_interval_of_their_strength():
    config = Si2023Config(finish_strength=3.0, stay_strength=0.5)
    platform = Platform.draw(config.model_copy(update={"n_features": 20_000}))
    count = []
    for coefficient_D2, strength in ((platform.finish_D2, 3.0), (platform.stay_D2, 0.5)):
        assert coefficient_D2.abs().max() <= strength
        for u_D in (coefficient_D2 / strength).T:
            count += [int((u_D < x).sum()) for x in (-0.6, 0.0, 0.6)]
    assert_frequencies(count, [20_000] * 12, [0.2, 0.5, 0.8] * 4, detects=0.035)
    assert len({tuple(x[:5].tolist()) for x in (*platform.finish_D2.T, *platform.stay_D2.T)}) == 4


VIDEOS = [[0.9, 0.2, 0.6, 0.0], [0.1, 0.8, 0.3, 0.0], [0.1, 0.8, 0.3, 1.0], [0.7, 0.1, 0.9, 1.0]]


def test_means_are_those_of_a_plain_loop():
    platform = Platform.draw(CONFIG)
    stay_X, finish_X = platform.means(torch.tensor(VIDEOS))
    for i, video in enumerate(VIDEOS):
        expected = plain_means(platform, CONFIG, video)
        assert [float(stay_X[i]), float(finish_X[i])] == pytest.approx(expected, rel=1e-5)


def test_outcomes_of_a_video_have_the_means_of_a_plain_loop():
    """200,000 visits of each video; finds 1 point of finishing, 2.5 % of stay time."""
    platform = Platform.draw(CONFIG)
    u_XN2 = draws.uniform32(draws.key(1, "luck", torch.arange(len(VIDEOS))), 2 * N).view(-1, N, 2)
    n_finished, p_finished, total, n_below, n_both = [], [], [], [], []
    for video, u_N2 in zip(VIDEOS, u_XN2, strict=True):
        y_NL = platform.outcomes(torch.tensor(video).expand(N, -1), u_N2).double()
        stay, finish = plain_means(platform, CONFIG, video)
        total.append(float((y_NL[:, 0] / stay).sum()))
        n_below += [int((y_NL[:, 0] < stay * x).sum()) for x in (0.1, math.log(2), 2.0)]
        assert set(y_NL[:, 1].unique().tolist()) <= {0.0, 1.0}
        n_finished.append(int(y_NL[:, 1].sum()))
        p_finished.append(finish)
        n_both.append(int(y_NL[y_NL[:, 0] < stay * math.log(2), 1].sum()))
        assert (y_NL[:, 2] == 1.0 - video[-1]).all()
    assert_mean_stay(total, [N] * len(VIDEOS), detects=0.025)
    # each video's share that finishes, and the share that does so in a stay below the median
    p = [*p_finished, *(x / 2 for x in p_finished)]
    assert_frequencies(n_finished + n_both, [N] * len(p), p, detects=0.01)
    exponential = [-math.expm1(-x) for x in (0.1, math.log(2), 2.0)]  # its shares below
    assert_frequencies(n_below, [N] * len(n_below), exponential * len(VIDEOS), detects=0.01)


# --- rows ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> tuple[Tensor, Tensor]:
    """All pretraining rows' videos N, E and outcomes N, L."""
    source = make_environment().pretraining(OUTCOMES, 0)
    assert source.n_rows == N
    batch, y_L1N = source.read(torch.arange(N).numpy())
    assert batch.shape == (1, N, 1)
    return batch.candidate["video_num"][0, :, 0], torch.stack([y[0] for y in y_L1N], dim=-1)


def test_the_share_of_long_videos(rows):
    world = make_world(batch_size=200, n_candidates=100)
    slate_X = world.slate(world.draw(0)).batch.candidate["video_num"][..., -1].flatten()
    long_ = [rows[0][:, -1], slate_X]
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in long_)
    count, n = [int(x.sum()) for x in long_], [x.numel() for x in long_]
    assert_frequencies(count, n, [CONFIG.long_share] * 2, detects=0.02)


def test_features_are_uniform_and_independent(rows):
    world = make_world(replications=tuple(range(50)), batch_size=40, n_candidates=100)
    slate_XE = world.slate(world.draw(0)).batch.candidate["video_num"].flatten(0, 2)
    assert len(slate_XE) == N
    count, p = [], []
    for video_XE in (rows[0], slate_XE):
        x_DX = video_XE[:, :-1].T
        assert x_DX.min() >= 0.0 and x_DX.max() < 1.0
        for x_X in x_DX:
            count += [int(((x_X >= i / 10) & (x_X < (i + 1) / 10)).sum()) for i in range(10)]
            p += [0.1] * 10
        is_low = [*((x < 0.5, 0.5) for x in x_DX), (video_XE[:, -1] == 1.0, CONFIG.long_share)]
        for (a, pa), (b, pb) in combinations(is_low, 2):
            count.append(int((a & b).sum()))
            p.append(pa * pb)
    assert_frequencies(count, [N] * len(count), p, detects=0.012)


def test_rows_have_the_means_of_a_plain_loop(rows):
    """Each row's outcome against its own video's mean, by type: Bernstein's bound for finishing."""
    video_NE, y_NL = rows
    platform = Platform.draw(CONFIG)
    mean_N2 = torch.tensor([plain_means(platform, CONFIG, v) for v in video_NE.tolist()])
    z = math.log(4 / FALSE_FAIL_RATE)  # two types, two sides
    total, n = [], []
    for k in (0.0, 1.0):
        at = video_NE[:, -1] == k
        y_XL, (stay_X, p_X) = y_NL[at].double(), mean_N2[at].double().T
        total.append(float((y_XL[:, 0] / stay_X).sum()))
        n.append(int(at.sum()))
        variance = float((p_X * (1 - p_X)).sum())
        bound = z / 3 + math.sqrt(z * z / 9 + 2 * z * variance)
        assert bound < 0.012 * n[-1]  # finds less than 2.5 points
        assert abs(float((y_XL[:, 1] - p_X).sum())) <= bound
        assert (y_XL[:, 2] == 1.0 - k).all()
    assert_mean_stay(total, n, detects=0.04)


def test_a_row_depends_on_its_place_alone(rows):
    place = torch.tensor([7, 3, 199_999, 3, 0])
    source = make_environment().pretraining(("finish", "stay_time"), 0)
    batch, (finish, stay) = source.read(place.numpy())
    assert same(batch.candidate["video_num"][0, :, 0], rows[0][place])
    assert same(finish[0], rows[1][place, 1]) and same(stay[0], rows[1][place, 0])


def test_pretraining_rows_are_not_held_out_nor_those_of_another_seed(rows):
    held_out = make_environment().held_out(OUTCOMES, 50, 10, start=0)
    other, y_L = make_environment(seed=4).pretraining(OUTCOMES, 0).read(torch.arange(500).numpy())
    assert held_out.n_users == 50 and held_out.batch.shape == (1, 50, 10)
    assert bool(held_out.is_candidate_BC.all())
    for video_NE, stay_N in (
        (held_out.batch.candidate["video_num"][0].flatten(0, 1), held_out.y_BCL[..., 0].flatten()),
        (other.candidate["video_num"][0, :, 0], y_L[0][0]),
    ):
        assert len(stay_N) == 500
        assert not torch.isin(video_NE[:, 0], rows[0][:500, 0]).any()
        assert not torch.isin(stay_N, rows[1][:500, 0]).any()


def test_label_values_are_those_of_the_pretraining_rows(rows):
    for i, target in enumerate(OUTCOMES):
        (values,) = make_environment().label_values(target)
        assert same(torch.from_numpy(values), rows[1][:, i].double())


# --- the draws -----------------------------------------------------------------------------


def live(world: SimulatedWorld, step: int) -> dict[str, Tensor]:
    """A step in which all worlds pick the first candidate; everything is R, ..."""
    visits = world.draw(step)
    slate = world.slate(visits)
    choice_WB = torch.zeros(slate.item_WBC.shape[:2], dtype=torch.int64)
    return {
        "arm": visits.arm_draw_RB,
        "user": visits.user_RB,
        "video": slate.batch.candidate["video_num"],
        "y": world.feedback(visits, slate, choice_WB),
    }


def test_draws_depend_neither_on_other_replications_nor_on_the_order_of_calls():
    alone = make_world(replications=(2,))
    expected = [live(alone, step) for step in range(4)]
    beside = make_world(replications=(0, 3, 2, 7))
    for step in (3, 0, 2, 1, 3):
        torch.rand(5)
        for name, x in live(beside, step).items():
            assert same(x[2], expected[step][name][0]), (step, name)


@pytest.mark.parametrize("change", [{"seed": 4}, {"replications": (1,)}, {"step": 1}])
def test_seed_replication_and_step_change_all_draws(change):
    step = change.pop("step", 0)
    one, other = live(make_world(replications=(0,)), 0), live(make_world(**change), step)
    for name in ("arm", "video"):
        x, y = one[name][0], other[name][0]
        assert not (x == y)[..., :3].any(), name
    assert not (one["y"][0, :, 0] == other["y"][0, :, 0]).any()


def test_all_designs_see_the_same_slate_and_have_the_same_luck():
    """Where two designs pick the same video they get the same; elsewhere, the same quantile."""
    n_blocks, R = 3, len(SETTINGS.replications)
    world, platform = make_world(n_blocks=n_blocks), Platform.draw(CONFIG)
    n_equal = n_other = 0
    for step in range(SETTINGS.n_steps):
        visits = world.draw(step)
        slate = world.slate(visits)
        assert slate.item_WBC.shape == (n_blocks * R, SETTINGS.batch_size, SETTINGS.n_candidates)
        assert slate.batch.shape[0] == R and slate.is_candidate_WBC.all()
        assert (slate.item_WBC == slate.item_WBC[0]).all()
        assert slate.item_WBC[0].unique().numel() == slate.item_WBC[0].numel()
        u_WB = draws.uniform(draws.key(1, "picks", torch.arange(n_blocks * R), step), 5)
        choice_WB = draws.below(u_WB, torch.tensor(SETTINGS.n_candidates))
        y_WBL = world.feedback(visits, slate, choice_WB)
        video_WBE = torch.stack(
            [
                slate.batch.candidate["video_num"][w % R][torch.arange(5), choice_WB[w]]
                for w in range(n_blocks * R)
            ]
        )
        assert same(y_WBL[..., 2], 1.0 - video_WBE[..., -1])
        luck_WB = y_WBL[..., 0] / platform.means(video_WBE)[0]
        for a, b in combinations(range(n_blocks), 2):
            for r in range(R):
                left, right = a * R + r, b * R + r
                is_equal_B = choice_WB[left] == choice_WB[right]
                n_equal += int(is_equal_B.sum())
                n_other += int((~is_equal_B).sum())
                assert same(y_WBL[left][is_equal_B], y_WBL[right][is_equal_B])
                assert not (y_WBL[left, :, 0] == y_WBL[right, :, 0])[~is_equal_B].any()
                torch.testing.assert_close(luck_WB[left], luck_WB[right])
    assert min(n_equal, n_other) > 20


def test_feedback_gives_the_outcomes_that_were_asked_for():
    both, one = (
        make_environment().world(names, SETTINGS) for names in (OUTCOMES, ("finish", "stay_time"))
    )
    assert same(live(one, 2)["y"], live(both, 2)["y"][..., [1, 0]])


# --- a slate that all designs share --------------------------------------------------------


def fields(batch: Batch) -> list[Tensor]:
    return list(batch.tensors.values())


def make_slates(n_blocks: int, R: int) -> tuple[Slate, Slate]:
    """A slate with a batch S = R of all kinds of columns, and the same repeated for all worlds."""
    generator, B, C = torch.Generator().manual_seed(2), 3, 4

    def number(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    def category(*shape: int) -> Tensor:
        return torch.randint(9, shape, generator=generator, dtype=torch.int32)

    batch = batch_of(
        number(R, B, 2), category(R, B, 3), number(R, B, 3),
        number(R, B, C, 2), category(R, B, C, 3), number(R, B, C, 3),
    )  # fmt: skip
    item_WBC = category(n_blocks * R, B, C).long()
    shared = Slate(item_WBC, item_WBC + 1, number(n_blocks * R, B, C) < 0.8, batch)
    return shared, replace(shared, batch=batch[torch.arange(R).repeat(n_blocks)])


@pytest.mark.parametrize(("n_blocks", "R"), [(1, 1), (1, 3), (3, 1), (3, 4)])
def test_what_is_chosen_from_a_shared_batch_is_as_from_a_repeated_one(n_blocks, R):
    shared, repeated = make_slates(n_blocks, R)
    choice_WB = torch.randint(
        4, shared.item_WBC.shape[:2], generator=torch.Generator().manual_seed(4)
    )
    ours, theirs = shared.batch.chosen(choice_WB), repeated.batch.chosen(choice_WB)
    for x, y in zip(fields(ours), fields(theirs), strict=True):
        assert same(x, y)
    for w, b in [(0, 0), (n_blocks * R - 1, 2)]:
        expected = repeated.batch.candidate["video_num"][w, b, choice_WB[w, b]]
        assert same(shared.batch.chosen(choice_WB).candidate["video_num"][w, b, 0], expected)


@pytest.mark.parametrize(("n_blocks", "R"), [(1, 1), (1, 3), (3, 1), (3, 4)])
def test_a_part_of_a_shared_batch_is_as_of_a_repeated_one(n_blocks, R):
    shared, repeated = make_slates(n_blocks, R)
    for block in range(n_blocks):
        for first, last in combinations(range(R + 1), 2):
            worlds = slice(block * R + first, block * R + last)
            x, y = shared.part(worlds), repeated.part(worlds)
            assert x.batch.shape[0] == last - first
            for name in ("item_WBC", "video_WBC", "is_candidate_WBC"):
                assert same(getattr(x, name), getattr(y, name))
                assert same(getattr(x, name), getattr(shared, name)[worlds])
            for a, b in zip(fields(x.batch), fields(y.batch), strict=True):
                assert same(a, b)


# --- what others see of it -------------------------------------------------------------------


def test_its_features_have_names():
    schema = make_environment().schema
    assert schema.names == ("x0", "x1", "x2", "long")
    assert schema.video.n_numerical == 4


def test_it_remembers_nothing():
    world = make_world()
    before = world.slate(world.draw(2)).batch.candidate["video_num"]
    world.draw(3)
    world.load_state(world.state())
    assert world.state() == {}
    assert same(world.slate(world.draw(2)).batch.candidate["video_num"], before)
    with pytest.raises(ValueError, match="slot is unknown"):
        world.load_state({"slot": torch.zeros(1)})


# --- the config ----------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["play_time_ms", "long_video", "Stay_time"])
def test_other_outcomes_are_refused(target, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = load_config("si2023", [f"labels.0.target={target}"])
    with pytest.raises(InputError, match=rf"labels\.0\.target = '{target}'.*stay_time, finish"):
        check_experiment(config)


def test_the_built_in_config_is_accepted(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert any("simulated platform 4" in line for line in check_experiment(load_config("si2023")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("si2023", "test: p = 0.5 of treatment, by user; the arms rank differently"),
        ("si2023-p20", "test: p = 0.2 of treatment, by user; the arms rank differently"),
        ("si2023-aa", "test: p = 0.5 of treatment, by user; an A/A test: both arms rank alike"),
    ],
)
def test_what_would_run_tells_the_built_in_variants_apart(name: str, said: str):
    small = ["experiment.replications=1", "experiment.designs=[pooling]"]
    assert any(line.startswith(said) for line in check_experiment(load_config(name, small)))
