"""Intervals by chance made anew: bootstrap resamples units, randomisation draws their arms again.

A unit is a user, or what else the design gave an arm as one (a cluster of users, a block of
steps).

Random numbers are a function of (design, world, purpose) alone, through ``numpy``'s SeedSequence:
[CRC-32 of the design's name, world, CRC-32 of the purpose]. Within a world every unit has the same
weight or arm for all labels. Units are taken in ascending order of their number.

**How many replicates.** With B of them the least p-value is 2/(B + 1) for the bootstrap and
1/(B + 1) for randomisation, and Holm's method multiplies it by the number of labels. So B grows
with the labels: what no replicate contradicts is adjusted to a p-value of 0.01 at most.

**Sums do not depend on who adds.** A product of matrices adds in an order that depends on the
number of threads. Here every term is a whole number and every sum below 2**53, so each order gives
the same float64.

Axes: R replicates, G units of a world, L labels.
"""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, combinations

import numpy as np

from realdataexp.stats.intervals import ALPHA, Intervals, cannot_tell, of_units
from realdataexp.stats.tables import DesignTables, WorldUnits

LEAST_ADJUSTED = 0.01
MIN_REPLICATES = 199
MIN_UNITS = 10
TIE = 1e-9  # the same statistic, computed in two ways
MAX_NUMBERS = 2**21  # of a block of replicates: 16 MiB
MAX_THREADS = 8


def n_replicates(n_labels: int, least: int) -> int:
    """B such that n_labels x least / (B + 1) is at most 0.01; 199 or more.

    (B + 1) x 0.05 / least is a whole number, so that order statistics are exact 95 % limits.

    Examples:
        >>> n_replicates(1, least=2), n_replicates(6, least=2), n_replicates(6, least=1)
        (199, 1199, 599)
    """
    return max(MIN_REPLICATES, round(least * n_labels / LEAST_ADJUSTED) - 1)


def _blocks(n_rows: int, n_columns: int) -> list[int]:
    """The rows of each block of a table that does not fit in memory.

    Even, as 16 random bits are half of a draw: so what is drawn does not depend on the blocks.
    """
    size = 2 * max(1, MAX_NUMBERS // (2 * n_columns))
    return [min(size, n_rows - start) for start in range(0, n_rows, size)]


def _sums(block_RG: Iterable[np.ndarray], columns_GX: np.ndarray, max_weight: float) -> np.ndarray:
    """Each row's weighted sums of the columns, the same whatever adds them: R, X.

    Args:
        block_RG: blocks of rows of whole weights, 0 to max_weight.
        columns_GX: rounded to at least 2**-48 of a column's absolute sum, and scaled by a power of
            two to whole numbers whose weighted sums stay below 2**53.
        max_weight: the largest weight.
    """
    size_X = np.abs(columns_GX).sum(0) * max_weight
    exponent_X = 52 - np.ceil(np.log2(np.where(size_X > 0, size_X, 1.0)))
    scale_X = np.exp2(np.where(np.isfinite(exponent_X), exponent_X, 0.0))
    whole_GX = np.rint(columns_GX * scale_X)
    return np.concatenate([block @ whole_GX for block in block_RG]) / scale_X


def generator(design: str, world: int, purpose: str) -> np.random.Generator:
    """The random numbers of one world of a design, for one purpose."""
    key = [zlib.crc32(design.encode()), world, zlib.crc32(purpose.encode())]
    return np.random.default_rng(np.random.SeedSequence(key))


def _for_each(parts: Iterable[WorldUnits], compute: Callable[[WorldUnits], None]) -> None:
    """Compute every world's cells, in as many threads as there are cores: worlds share nothing."""
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    with ThreadPoolExecutor(min(n_cores or 1, MAX_THREADS)) as pool:
        for _ in pool.map(compute, parts):
            pass


def _poisson_of_16_bits() -> np.ndarray:
    """Turns 16 random bits into a draw from Poisson(1), exact to 2**-16."""
    factorial = np.cumprod([1, *range(1, 12)])
    cdf = np.cumsum(np.exp(-1.0) / factorial)
    return np.searchsorted(cdf * 65536, np.arange(65536) + 0.5).astype(np.float64)


POISSON = _poisson_of_16_bits()


@of_units
def bootstrap(tables: DesignTables) -> Intervals:
    """Percentile interval of the difference when units are resampled, with all their visits.

    Poisson bootstrap (Chamandy, Muralidharan, Najmi and Naidu 2012; Bakshy and Eckles 2013, KDD):
    each of B replicates (200 for each label, less 1) counts a unit Poisson(1) times, apart from
    others, hence within arms. Limits are the 0.025 (B + 1)-th smallest and largest, which is
    exactly 95 % (Davison and Hinkley 1997, section 5.2); se is the replicates' standard deviation;
    p_value is 2 (1 + the smaller of the counts below and above 0) / (B + 1).

    Cannot tell with fewer than 10 units in an arm, where percentile intervals are far too narrow.
    """
    out = cannot_tell(tables.n_cells)
    units = tables.units
    if units is None:
        return out
    value_Z, _ = units.difference(units.sum_UA)
    out.value[:] = value_Z
    residual_UA = units.sum_UA - units.ratios(units.sum_UA)[units.cell_U] * units.n_UA
    is_enough_Z = units.count_ZA.min(axis=1) >= MIN_UNITS
    n = n_replicates(tables.n_labels, least=2)
    tail = round((n + 1) * ALPHA / 2)

    def resample(part: WorldUnits) -> None:
        columns = [part.dense(x[:, a]) for x in (units.n_UA, residual_UA) for a in (0, 1)]
        chance = generator(tables.design, part.world, "bootstrap")
        weights = (
            np.take(POISSON, chance.integers(0, 65536, (rows, part.n_units), dtype=np.uint16))
            for rows in _blocks(n, part.n_units)
        )
        sums = _sums(weights, np.concatenate(columns, axis=1), POISSON.max())
        n_c, n_t, e_c, e_t = np.split(sums, 4, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            replicate_RL = value_Z[part.cells] + e_t / n_t - e_c / n_c
        is_sound = is_enough_Z[part.cells] & np.isfinite(replicate_RL).all(0)
        cells, replicate_RL = part.cells[is_sound], np.sort(replicate_RL[:, is_sound], axis=0)
        beyond = np.minimum((replicate_RL <= 0).sum(0), (replicate_RL >= 0).sum(0))
        out.se[cells] = replicate_RL.std(axis=0, ddof=1)
        out.ci_low[cells] = replicate_RL[tail - 1]
        out.ci_high[cells] = replicate_RL[-tail]
        out.p_value[cells] = np.minimum(1.0, 2 * (1 + beyond) / (n + 1))

    _for_each(tables.world_units(), resample)
    return out


@of_units
def randomisation(tables: DesignTables) -> Intervals:
    """Fisher's test: how often would arms dealt anew to the same units differ as much?

    Arms are permuted over a world's units B times (100 for each label less 1, at least 199; where
    fewer ways to deal them exist, each is taken once): given how many units are treated, all ways
    are equally likely in a design that treats each with the same probability, apart from the
    others. The statistic is the difference of means per visit over its unit-clustered standard
    error, which makes the test exact where nobody is affected and right in large samples where
    effects only cancel out on average (Wu and Ding 2021, JASA 116:1898). p_value = (1 + replicates
    at least as far from 0) / (1 + replicates). The interval takes that statistic's law as the same
    at every effect: value +- q se, q the least size at which the test would not reject, se that of
    user_cluster.

    Cannot tell where units have visits in both arms (their arms were not dealt by unit), an arm
    has fewer than two units, or so few ways exist that no p-value could be 0.05 or less: with
    fewer than four units in each arm, mostly.
    """
    out = cannot_tell(tables.n_cells)
    units = tables.units
    if units is None:
        return out
    value_Z, influence_U = units.difference(units.sum_UA)
    se_Z = np.sqrt(units.total(influence_U**2))
    out.value[:] = value_Z
    n = n_replicates(tables.n_labels, least=1)
    n_U, sum_U = units.n_UA.sum(1), units.sum_UA.sum(1)
    mean_Z = units.total(sum_U) / units.total(n_U).clip(1)
    apart_U = sum_U - mean_Z[units.cell_U] * n_U
    columns_U = [n_U > 0, n_U, apart_U, n_U**2, n_U * apart_U, apart_U**2]

    def deal(part: WorldUnits) -> None:
        is_treated_G, is_control_G = (part.dense(units.n_UA[:, a]).max(axis=1) > 0 for a in (1, 0))
        if (is_treated_G & is_control_G).any() or not _can_reject(is_treated_G):
            return
        chance = generator(tables.design, part.world, "randomisation")
        arms = chain([is_treated_G[None]], _dealt_anew(is_treated_G, n, chance))
        columns = np.concatenate([part.dense(x) for x in columns_U], axis=1)
        everybody, *dealt = _sums(chain([np.ones_like(is_treated_G)[None]], arms), columns, 1.0)
        size = np.abs(_studentised(np.stack(dealt), everybody))
        is_sound = np.isfinite(size).all(0) & (se_Z[part.cells] > 0)
        cells, size = part.cells[is_sound], size[:, is_sound]
        # the test rejects where fewer than this many replicates are as far
        n_few = math.floor(len(size) * ALPHA)
        at_least = (size[1:] >= size[0] * (1 - TIE)).sum(0)
        half = np.sort(size[1:], axis=0)[-n_few] / (1 - TIE) * se_Z[cells]
        out.se[cells] = se_Z[cells]
        out.ci_low[cells] = value_Z[cells] - half
        out.ci_high[cells] = value_Z[cells] + half
        out.p_value[cells] = (1 + at_least) / len(size)

    _for_each(tables.world_units(), deal)
    return out


def _can_reject(is_treated_G: np.ndarray) -> bool:
    """Whether the most extreme of all ways to deal the arms has a p-value of at most 0.05."""
    n, n_treated = len(is_treated_G), int(is_treated_G.sum())
    # with arms of equal size, the same arms with their names swapped are as far from 0
    n_as_far = 2 if 2 * n_treated == n else 1
    return 2 <= n_treated <= n - 2 and n_as_far <= ALPHA * _n_ways(n, n_treated)


def _n_ways(n: int, n_treated: int) -> float:
    """In how many ways two or more units of each arm can be dealt; infinity from 80,000 on."""
    return math.comb(n, n_treated) if n <= 400 else math.inf


def _dealt_anew(
    is_treated_G: np.ndarray, n_random: int, chance: np.random.Generator
) -> Iterator[np.ndarray]:
    """Blocks of other arms for the same units, as many treated: random ones, or all if fewer."""
    n, n_treated = len(is_treated_G), int(is_treated_G.sum())
    n_ways = _n_ways(n, n_treated)
    if n_ways <= n_random:
        every_RG = np.zeros((int(n_ways), n), dtype=bool)
        for row_G, treated in zip(every_RG, combinations(range(n), n_treated), strict=True):
            row_G[list(treated)] = True
        yield every_RG[(every_RG != is_treated_G).any(1)]
        return
    for rows in _blocks(n_random, n):
        key_RG = chance.random((rows, n), dtype=np.float32)
        # the n_treated smallest keys of a row: a random subset, quicker than a permutation
        yield key_RG < np.partition(key_RG, n_treated, axis=1)[:, n_treated, None]


def _studentised(treated: np.ndarray, everybody: np.ndarray) -> np.ndarray:
    """Difference of the arms' ratios over its standard error, from the sums of six columns: R, L.

    The columns (each for all labels): units, n, d, n^2, n d, d^2, with d the outcome's sum centred
    at the mean of both arms.
    """
    ratio, var = [], []
    for sums in (treated, everybody - treated):
        g, n, d, nn, nd, dd = np.split(sums, 6, axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            r = d / n
            ratio.append(r)
            var.append(
                (dd - 2 * r * nd + r * r * nn).clip(0) / n**2 * g / np.where(g > 1, g - 1, 0)
            )
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((ratio[0] - ratio[1]) / np.sqrt(var[0] + var[1]))
