"""Laws of the draws: known answers, keys that never meet, uniform choices, exact dropout masks."""

from __future__ import annotations

import itertools
import math
import zlib
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from realdataexp import draws

FALSE_FAIL = 1e-6
MASK_64 = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def unsigned(x: Tensor) -> list[int]:
    return [value & MASK_64 for value in x.flatten().tolist()]


def python_mix64(x: int) -> int:
    """SplitMix64's finaliser in Python's integers (Steele, Lea, Flood 2014, figure 5)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def python_key(seed: int, purpose: str, *counters: int) -> int:
    mixed = python_mix64((2 * seed + 1) & MASK_64)
    for part in (zlib.crc32(purpose.encode()), *counters):
        mixed = python_mix64((mixed * GOLDEN + part) & MASK_64)
    return mixed


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())


def assert_equally_likely(counts: np.ndarray, detectable: float) -> None:
    """The cells are equally likely, and one that is off by the share ``detectable`` would show."""
    n, cells = counts.sum(), counts.size
    limit = stats.chi2.isf(FALSE_FAIL, cells - 1)
    power = stats.ncx2.sf(limit, cells - 1, n / cells * detectable**2)
    assert power > 0.99, f"{n} draws cannot show {detectable:.0%} in one of {cells} cells"
    assert chi_square(counts) < limit


def count_subsets(chosen: list[tuple[int, ...]], n: int, k: int) -> np.ndarray:
    counted = Counter(chosen)
    cells = list(itertools.combinations(range(n), k))
    assert set(counted) <= set(cells)
    return np.array([counted[cell] for cell in cells], dtype=float)


# --- bits and keys ---------------------------------------------------------------------------


def test_bits_are_splitmix64() -> None:
    assert unsigned(draws.bits(torch.tensor(1234567), 5)) == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]


def test_a_device_draws_the_bits_of_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without unsigned numbers, and NumPy with them."""

    def draw() -> list[Tensor]:
        replication_R, step = torch.arange(7, dtype=torch.int32), 2**40 + 3
        keys_R = draws.key(-5, "of", 3, replication_R, step)
        keys_RB = draws.key(2**70, "both", replication_R[:, None], torch.arange(5), -1)
        alone = draws.key(1, "alone", torch.tensor(9))
        found = [keys_R, keys_RB, alone, draws.mix64(keys_RB), draws.bits(alone, 6)]
        found += [draws.bits(keys_RB, 11), draws.uniform(keys_R, 9), draws.uniform32(keys_R, 9)]
        return [*found, draws.chance(keys_R, 9, 0.3), draws.keep_mask(keys_R, (4, 7), 0.2)]

    on_host, asked = draw(), []
    monkeypatch.setattr(draws, "_is_on_host", lambda x: asked.append(x) is not None)
    on_device = draw()
    assert asked
    for a, b in zip(on_host, on_device, strict=True):
        assert a.dtype == b.dtype and torch.equal(a, b)


def test_mix64_leaves_its_argument_alone() -> None:
    x = torch.tensor([1, 2, 3])
    draws.mix64(x)
    assert x.tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("seed", "purpose", "counters"),
    [
        (0, "users", ()),
        (1, "users", (0,)),
        (-1, "arms", (3, 4)),
        (2**70 + 5, "", (-7, 2**63 + 1, 0)),
    ],
)
def test_a_key_is_the_documented_mix_of_its_parts(
    seed: int, purpose: str, counters: tuple[int, ...]
) -> None:
    key = draws.key(seed, purpose, *counters)
    assert key.shape == () and key.dtype == torch.int64
    assert unsigned(key) == [python_key(seed, purpose, *counters)]


def test_keys_differ_in_seed_purpose_counter_and_the_order_of_counters() -> None:
    keys = [
        draws.key(seed, purpose, *counters)
        for seed in (0, 1, 2, -1, 2**31)
        for purpose in ("users", "arms", "slates")
        for counters in ((), (0,), (1,), (0, 0), (0, 1), (1, 0), (1, 1), (0, 0, 0))
    ]
    assert len({int(key) for key in keys}) == len(keys) == 120


def test_streams_of_neighbouring_keys_never_share_a_number() -> None:
    """SplitMix64 streams whose keys differ by a multiple of GOLDEN are shifted copies."""
    keys = torch.stack(
        [
            draws.key(seed, purpose, torch.arange(20).unsqueeze(1), torch.arange(20))
            for seed in (0, 1)
            for purpose in ("users", "arms")
        ]
    )
    values = draws.bits(keys, 500).flatten()
    # 800 000 of 2**64 numbers: two are equal by chance in 2 of 10**8 cases
    assert values.unique().numel() == values.numel() == 4 * 20 * 20 * 500


def test_tensor_counters_broadcast_to_the_keys_of_their_scalars() -> None:
    replication, step = torch.tensor([3, 5, 8], dtype=torch.int32), torch.tensor([[1], [2]])
    keys = draws.key(7, "users", replication, step, 11)
    assert keys.shape == (2, 3)
    for i, j in itertools.product(range(2), range(3)):
        scalar = draws.key(7, "users", int(replication[j]), int(step[i]), 11)
        assert torch.equal(keys[i, j], scalar)


def test_fewer_draws_are_a_prefix_and_fewer_keys_a_part() -> None:
    keys = draws.key(3, "users", torch.arange(6).view(2, 3))
    many = draws.bits(keys, 9)
    assert many.shape == (2, 3, 9)
    for n in range(9):
        assert torch.equal(draws.bits(keys, n), many[..., :n])
    assert torch.equal(draws.bits(keys[1, 2], 9), many[1, 2])
    assert torch.equal(draws.uniform(keys[1:], 4), draws.uniform(keys, 9)[1:, :, :4])


# --- uniforms --------------------------------------------------------------------------------


def test_a_uniform_is_the_upper_53_bits_of_its_number() -> None:
    keys = draws.key(0, "u", torch.arange(50))
    expected = [(x >> 11) / 2**53 for x in unsigned(draws.bits(keys, 20))]
    u = draws.uniform(keys, 20)
    assert u.dtype == torch.float64
    assert u.flatten().tolist() == expected
    assert float(u.min()) >= 0.0 and float(u.max()) < 1.0


def test_uniforms_stay_below_one_at_the_largest_number(monkeypatch: pytest.MonkeyPatch) -> None:
    extremes = torch.tensor([-1, 0, 2**63 - 1, -(2**63)])
    monkeypatch.setattr(draws, "bits", lambda keys, n: extremes)
    assert draws.uniform(torch.tensor(0), 4).tolist() == [
        1 - 2.0**-53,
        0.0,
        (2**52 - 1) / 2**53,
        0.5,
    ]


@pytest.mark.parametrize("p", [0.0, 2.0**-53, 1e-9, 0.1, 1 / 3, 0.5, 0.7, 1 - 2.0**-53, 1.0])
def test_a_chance_is_a_uniform_below_p_to_the_bit(p: float) -> None:
    keys = draws.key(5, "chance", torch.arange(200))
    assert draws.chance(keys, 50, p).equal(draws.uniform(keys, 50) < p)
    # and where p is one of the uniforms itself, or the next number above it
    for u in draws.uniform(keys[:50], 1).flatten().tolist():
        for at in (u, math.nextafter(u, 1.0)):
            assert draws.chance(keys, 1, at).equal(draws.uniform(keys, 1) < at)


@pytest.mark.parametrize("along", ["one stream", "first draw of many keys"])
def test_uniforms_are_uniform(along: str) -> None:
    n = 100_000
    if along == "one stream":
        u = draws.uniform(draws.key(1, "ks"), n)
    else:
        u = draws.uniform(draws.key(1, "ks", torch.arange(n)), 1).squeeze(-1)
    assert stats.kstest(u.numpy(), "uniform").pvalue > FALSE_FAIL
    assert stats.kstest(u.numpy() ** 1.05, "uniform").pvalue < FALSE_FAIL  # it would show
    assert_equally_likely(np.bincount((u * 64).long(), minlength=64).astype(float), 0.3)


def test_draws_of_different_keys_are_uncorrelated() -> None:
    n, limit = 100_000, stats.norm.isf(FALSE_FAIL / 2 / 4)
    first = draws.uniform(draws.key(1, "users", 1), n).numpy()
    others = [("users", (2,)), ("arms", (1,)), ("users", (1, 0)), ("users", (0, 1))]
    for purpose, counters in others:
        other = draws.uniform(draws.key(1, purpose, *counters), n).numpy()
        assert abs(np.corrcoef(first, other)[0, 1]) < limit / math.sqrt(n)
    mixed = 0.97 * other + 0.03 * first
    assert abs(np.corrcoef(first, mixed)[0, 1]) > limit / math.sqrt(n)  # it would show


def test_below_is_the_floor_and_never_reaches_n() -> None:
    u = torch.tensor([0.0, 0.2499, 0.25, 0.9999, 1 - 2.0**-53], dtype=torch.float64)
    assert draws.below(u, torch.full((5,), 4)).tolist() == [0, 0, 1, 3, 3]
    big = 2**53 - 1
    assert int(draws.below(u[-1:], torch.tensor([big]))) == big - 1


# --- choices ---------------------------------------------------------------------------------


def test_choose_gives_distinct_numbers_in_range_and_pads_behind_the_last() -> None:
    n_X = torch.arange(12).repeat(50)
    u_XC = draws.uniform(draws.key(0, "choose", torch.arange(len(n_X))), 5)
    for n, row in zip(n_X.tolist(), draws.choose(u_XC, n_X).tolist(), strict=True):
        taken = row[: min(n, 5)]
        assert len(set(taken)) == len(taken)
        assert all(0 <= x < n for x in taken)
        assert row[len(taken) :] == [-1] * (5 - len(taken))


@pytest.mark.parametrize(("n", "k"), [(6, 3), (5, 5), (7, 1), (6, 2)])
def test_choose_takes_every_subset_equally_often(n: int, k: int) -> None:
    n_draws = 60_000
    u_XC = draws.uniform(draws.key(n, "choose", torch.arange(n_draws)), k)
    chosen = draws.choose(u_XC, torch.full((n_draws,), n)).sort(dim=-1).values
    counts = count_subsets([tuple(row) for row in chosen.tolist()], n, k)
    if len(counts) == 1:
        assert counts.tolist() == [n_draws]
    else:
        assert_equally_likely(counts, 0.2)


def test_choose_of_one_row_does_not_depend_on_the_other_rows() -> None:
    n_X = torch.tensor([[3, 9], [1000, 0]])
    u_XC = draws.uniform(draws.key(0, "choose", torch.arange(4).view(2, 2)), 4)
    together = draws.choose(u_XC, n_X)
    assert together.shape == (2, 2, 4)
    for i, j in itertools.product(range(2), range(2)):
        assert torch.equal(draws.choose(u_XC[i, j], n_X[i, j]), together[i, j])


def test_a_permutation_holds_each_number_once_and_all_orders_are_equally_likely() -> None:
    n_draws = 12_000
    keys = draws.key(0, "permutation", torch.arange(n_draws))
    orders = Counter(tuple(draws.permutation(key, 4).tolist()) for key in keys)
    assert set(orders) <= set(itertools.permutations(range(4)))
    cells = itertools.permutations(range(4))
    assert_equally_likely(np.array([orders[cell] for cell in cells], dtype=float), 0.5)


@pytest.mark.parametrize(
    ("n", "k"), [(0, 3), (4, 4), (4, 9), (5, 3), (8, 2), (9, 2), (13, 3), (30, 1), (1000, 100)]
)
def test_a_subset_has_its_size_in_ascending_order_without_repetition(n: int, k: int) -> None:
    # a draw that finds too few distinct numbers is rare: 1 in 729 for 2 of 9
    for key in draws.key(0, "subset", torch.arange(10_000 if 4 * k < n < 20 else 300)):
        chosen = draws.subset(key, n, k)
        assert chosen.dtype == torch.int64
        assert len(chosen) == min(n, k)
        assert bool((chosen[1:] > chosen[:-1]).all())
        assert len(chosen) == 0 or (int(chosen[0]) >= 0 and int(chosen[-1]) < n)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (6, 3), (9, 2), (13, 1)])
def test_every_subset_is_equally_likely(n: int, k: int) -> None:
    keys = draws.key(1, "subset", torch.arange(12_000))
    chosen = [tuple(draws.subset(key, n, k).tolist()) for key in keys]
    counts = count_subsets([c for c in chosen if len(c) == k], n, k)
    assert_equally_likely(counts, 0.65)


def test_every_number_is_equally_likely_in_a_small_subset_of_many() -> None:
    keys = draws.key(2, "subset", torch.arange(300))
    chosen = torch.cat([draws.subset(key, 2048, 100) for key in keys])
    assert_equally_likely(np.bincount(chosen // 64, minlength=32).astype(float), 0.35)


def test_a_small_subset_of_very_many_needs_no_memory_for_them() -> None:
    chosen = draws.subset(draws.key(0, "subset"), 10**15, 1000)
    assert len(chosen) == 1000 and int(chosen[-1]) > 10**14


# --- dropout masks ---------------------------------------------------------------------------


@pytest.mark.parametrize("drop", [0.0, 0.1, 0.5, 0.9])
def test_a_mask_is_zero_or_the_scale_that_keeps_the_mean_one(drop: float) -> None:
    mask = draws.keep_mask(draws.key(0, "mask", torch.arange(2)), (101, 1001), drop)
    assert mask.shape == (2, 101, 1001) and mask.dtype == torch.float32
    rounded = round(drop * 65536) / 65536
    kept = torch.tensor(1 / (1 - rounded), dtype=torch.float32)
    assert set(mask.unique().tolist()) <= {0.0, kept.item()}
    n, dropped = mask.numel(), int((mask == 0).sum())
    low, high = stats.binom.interval(1 - FALSE_FAIL, n, rounded)
    assert low <= dropped <= high
    assert drop == 0.0 or high < (drop + 0.02) * n  # two points more would show


def test_all_lanes_of_a_number_drop_alike() -> None:
    mask = draws.keep_mask(draws.key(1, "mask"), (40_000, 4), 0.25)
    low, high = stats.binom.interval(1 - FALSE_FAIL / 4, 40_000, 0.25)
    for lane in range(4):
        assert low <= int((mask[:, lane] == 0).sum()) <= high
    pairs = np.corrcoef((mask == 0).float().numpy().T)
    limit = stats.norm.isf(FALSE_FAIL / 12) / math.sqrt(40_000)
    assert np.abs(pairs[~np.eye(4, dtype=bool)]).max() < limit


def test_a_mask_depends_on_its_own_key_only() -> None:
    keys = draws.key(2, "mask", torch.arange(6).view(2, 3))
    masks = draws.keep_mask(keys, (7, 5), 0.4)
    assert masks.shape == (2, 3, 7, 5)
    for i, j in itertools.product(range(2), range(3)):
        assert torch.equal(draws.keep_mask(keys[i, j], (7, 5), 0.4), masks[i, j])
    flat = masks.flatten(0, 1)
    assert len({tuple(mask.flatten().tolist()) for mask in flat}) == 6


def test_masks_of_different_keys_are_uncorrelated() -> None:
    n = 100_000
    masks = draws.keep_mask(draws.key(3, "mask", torch.arange(3)), (n,), 0.5).numpy()
    limit = stats.norm.isf(FALSE_FAIL / 6) / math.sqrt(n)
    assert np.abs(np.corrcoef(masks)[~np.eye(3, dtype=bool)]).max() < limit


@pytest.mark.parametrize("drop", [0.999, 0.99999, 0.999999])
def test_a_mask_is_finite_for_every_probability_below_one(drop: float) -> None:
    mask = draws.keep_mask(draws.key(0, "mask"), (1000,), drop)
    assert bool(torch.isfinite(mask).all())


def test_devices_choose_the_same_numbers_as_the_host():
    """Operations on tensors against NumPy, with many draws that repeat."""
    n_X = torch.tensor([0, 1, 2, 5, 7, 8, 20, 1000]).repeat(200)
    u_XC = draws.uniform(draws.key(4, "choose", torch.arange(len(n_X))), 7)
    assert torch.equal(draws._choose_on_device(u_XC, n_X), draws.choose(u_XC, n_X))
