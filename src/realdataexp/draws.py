"""Every random number of realdataexp: a pure function of a key, never of call order.

A key is a 64-bit integer mixed from (seed, purpose, replication, step, ...). From a key comes a
SplitMix64 stream (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"):
element i is ``mix64(key + (i + 1) * GOLDEN)``. The arithmetic is on int64 tensors, which wrap
around, so that one definition serves every device and every number of worlds; on the host it is
on NumPy's unsigned integers, with the same bits.

Axes: R replications, n draws a key.
"""

from __future__ import annotations

import math
import zlib

import numpy as np
import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_ALL = 0xFFFFFFFFFFFFFFFF


def _signed(value: int) -> int:
    """The int64 with the same 64 bits, taken modulo 2**64."""
    value &= _ALL
    return value - (1 << 64) if value >= 1 << 63 else value


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical right shift of the 64-bit pattern (torch's own shift keeps the sign)."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def mix64(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 bit patterns, elementwise: a bijection that scatters."""
    if _is_on_host(x):
        return _to_tensor(_mix64_on_host(_to_host(x)))
    x = x.bitwise_xor(_shift_right(x, 30)).mul_(_signed(_MIX_1))
    x.bitwise_xor_(_shift_right(x, 27)).mul_(_signed(_MIX_2))
    return x.bitwise_xor_(_shift_right(x, 31))


@np.errstate(over="ignore")  # a single number would warn where an array just wraps around
def _mix64_on_host(u: np.ndarray | np.uint64) -> np.ndarray | np.uint64:
    """``mix64`` in NumPy's unsigned numbers, which takes half the time of tensors."""
    u = u ^ (u >> np.uint64(30))
    u *= np.uint64(_MIX_1)
    u ^= u >> np.uint64(27)
    u *= np.uint64(_MIX_2)
    u ^= u >> np.uint64(31)
    return u


def _is_on_host(x: Tensor) -> bool:
    return x.is_cpu


def _to_host(x: Tensor) -> np.ndarray:
    """The same 64 bits without a sign."""
    return x.to(torch.int64).numpy().view(np.uint64)


def _to_tensor(u: np.ndarray | np.uint64) -> Tensor:
    return torch.from_numpy(np.asarray(u).view(np.int64))


def _mix64_of(x: int) -> int:
    """``mix64`` of one number, taken modulo 2**64: the bits as an integer from 0."""
    x &= _ALL
    x = (x ^ x >> 30) * _MIX_1 & _ALL
    x = (x ^ x >> 27) * _MIX_2 & _ALL
    return x ^ x >> 31


def key(seed: int, purpose: str, *counters: int | Tensor) -> Tensor:
    """Mix a seed, a purpose and any counters into keys.

    Args:
        seed: the run's seed, any integer.
        purpose: what the draws are for ("users", "arms", ...); distinct names, distinct streams.
        counters: integers or int64 tensors, such as replication and step.

    Returns:
        int64 tensor of the counters' broadcast shape, () without tensor counters.
    """
    parts: list[int | Tensor] = [zlib.crc32(purpose.encode()), *counters]
    first = _mix64_of(seed * 2 + 1)
    while parts and isinstance(part := parts[0], int):  # far cheaper than tensors
        first = _mix64_of(first * _GOLDEN + part)
        del parts[0]
    if all(isinstance(part, int) or _is_on_host(part) for part in parts):
        return _key_on_host(first, parts)
    mixed = torch.tensor(_signed(first))
    for part in parts:
        counter = part.to(torch.int64) if isinstance(part, Tensor) else _signed(part)
        mixed = mix64(mixed * _signed(_GOLDEN) + counter)
    return mixed


def start_seed(seed: int, start: int) -> int:
    """The seed of a starting model (from 0) and its split of users; the run's own for the first."""
    return seed if start == 0 else int(key(seed, "start", start))


@np.errstate(over="ignore")
def _key_on_host(first: int, parts: list[int | Tensor]) -> Tensor:
    """``key``, from what the seed, the purpose and the first counters were mixed into."""
    mixed: np.ndarray | np.uint64 = np.uint64(first)
    for part in parts:
        counter = _to_host(part) if isinstance(part, Tensor) else np.uint64(part & _ALL)
        mixed = _mix64_on_host(mixed * np.uint64(_GOLDEN) + counter)
    return _to_tensor(mixed)


def bits(keys: Tensor, n: int) -> Tensor:
    """The first ``n`` elements of each key's stream: int64 of shape keys.shape + (n,)."""
    if _is_on_host(keys):
        steps_n = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        return _to_tensor(_mix64_on_host(_to_host(keys)[..., None] + steps_n))
    steps = torch.arange(1, n + 1, dtype=torch.int64, device=keys.device)
    return mix64(keys.unsqueeze(-1) + steps.mul_(_signed(_GOLDEN)))


def uniform(keys: Tensor, n: int) -> Tensor:
    """``n`` draws a key from U[0, 1), with 53 bits: float64 of shape keys.shape + (n,).

    For the host and for devices that have float64; ``chance`` and ``uniform32`` do without.

    Examples:
        What is drawn depends on the key only, not on what else is drawn:

        >>> both = uniform(key(0, "users", torch.arange(2)), 3)
        >>> torch.equal(both[1], uniform(key(0, "users", 1), 3))
        True
    """
    return _shift_right(bits(keys, n), 11).to(torch.float64).mul_(2.0**-53)


def chance(keys: Tensor, n: int, p: float) -> Tensor:
    """``uniform(keys, n) < p`` to the bit, in whole numbers: bool, true with probability p."""
    return _shift_right(bits(keys, n), 11) < math.ceil(p * 2.0**53)


def uniform32(keys: Tensor, n: int) -> Tensor:
    """``n`` draws a key from U[0, 1), with 24 bits: float32, at half the cost of ``uniform``."""
    lanes = bits(keys, -(-n // 2)).view(torch.int32)[..., :n]
    return (lanes >> 8).bitwise_and_(0xFFFFFF).to(torch.float32).mul_(2.0**-24)


def below(u: Tensor, n: Tensor) -> Tensor:
    """Integers in [0, n) from uniforms ``u`` (same shape): floor(u * n), int64.

    Examples:
        >>> below(torch.tensor([0.0, 0.5, 0.999]), torch.tensor([10, 10, 3])).tolist()
        [0, 5, 2]
    """
    return (u * n).to(torch.int64).clamp_max_(n - 1)


def choose(u_XC: Tensor, n_X: Tensor) -> Tensor:
    """Choose C distinct numbers out of range(n) for each element, uniformly over subsets.

    Robert Floyd's algorithm (Bentley & Floyd 1987, CACM 30(9)): its cost is C**2 and does not
    depend on n.

    Args:
        u_XC: float64 uniforms; the last axis holds the C draws of one choice.
        n_X: int64, how many there are to choose from.

    Returns:
        int64 of the shape of ``u_XC``: the chosen numbers, -1 after the n-th where n < C.

    Examples:
        Where all uniforms are 0, 0 is chosen, and then what is last each time. Two out of two:

        >>> u = torch.zeros(2, 3, dtype=torch.float64)
        >>> choose(u, torch.tensor([5, 2])).tolist()
        [[0, 3, 4], [0, 1, -1]]
    """
    if not _is_on_host(u_XC):
        return _choose_on_device(u_XC, n_X)
    u, n = u_XC.numpy(), n_X.numpy()
    n_taken = np.minimum(n, u.shape[-1])[..., None]
    last = n[..., None] - n_taken + np.arange(u.shape[-1])
    drawn = np.minimum((u * (last + 1)).astype(np.int64), last)
    chosen, ordered = drawn.copy(), np.sort(drawn, axis=-1)
    is_repeated_X = (ordered[..., 1:] == ordered[..., :-1]).any(-1)
    if is_repeated_X.any():  # where nothing is drawn twice, all stays as drawn
        drawn, last, own = drawn[is_repeated_X], last[is_repeated_X], chosen[is_repeated_X]
        for k in range(1, u.shape[-1]):
            is_taken = (own[:, :k] == drawn[:, k, None]).any(-1)
            np.copyto(own[:, k], last[:, k], where=is_taken)
        chosen[is_repeated_X] = own
    chosen[np.arange(u.shape[-1]) >= n_taken] = -1
    return torch.from_numpy(chosen)


def _choose_on_device(u_XC: Tensor, n_X: Tensor) -> Tensor:
    """``choose`` without a look at what was drawn."""
    place_C = torch.arange(u_XC.shape[-1], device=u_XC.device)
    n_taken_X1 = n_X.clamp_max(u_XC.shape[-1]).unsqueeze(-1)
    last_XC = n_X.unsqueeze(-1) - n_taken_X1 + place_C
    chosen_XC = torch.minimum((u_XC * (last_XC + 1)).to(torch.int64), last_XC)
    for k in range(1, u_XC.shape[-1]):
        is_taken_X = (chosen_XC[..., :k] == chosen_XC[..., k, None]).any(-1)
        chosen_XC[..., k] = torch.where(is_taken_X, last_XC[..., k], chosen_XC[..., k])
    return chosen_XC.masked_fill_(place_C >= n_taken_X1, -1)


def permutation(keys: Tensor, n: int) -> Tensor:
    """A random order of range(n) for one key, int64 of shape (n,)."""
    return torch.argsort(bits(keys, n), stable=True)


def subset(keys: Tensor, n: int, k: int) -> Tensor:
    """At most ``k`` distinct numbers out of range(n) for one key, ascending; all where k >= n."""
    if k >= n:
        return torch.arange(n)
    if 4 * k >= n or n < 1024:
        return permutation(keys, n)[:k].sort().values
    drawn = below(uniform(keys, 2 * k), torch.tensor(n))
    # the first k distinct ones, in the order drawn; 2k draws from so many all but surely hold k
    ordered, place = torch.sort(drawn, stable=True)
    is_first = torch.ones_like(ordered, dtype=torch.bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return drawn[place[is_first].sort().values[:k]].sort().values


def keep_mask(keys: Tensor, shape: tuple[int, ...], drop: float) -> Tensor:
    """Dropout masks: 0 with probability ``drop``, else 1 / (1 - drop).

    Sixteen bits decide an element, so ``drop`` is rounded to a multiple of 2**-16 and the scale
    uses the rounded value: the mean stays exactly 1.

    Keys of any shape X, one stream each; float32 of shape X + shape.
    """
    size = math.prod(shape)
    lanes = bits(keys, -(-size // 4)).view(torch.int16)[..., :size]
    threshold = min(round(drop * 65536), 65535)
    scale = 65536.0 / (65536 - threshold)
    if _is_on_host(keys):  # into numbers: a fifth of the time of truth values that become numbers
        kept = torch.ge(lanes, threshold - 32768, out=torch.empty(lanes.shape))
    else:
        kept = (lanes >= threshold - 32768).to(torch.float32)
    return kept.mul_(scale).view(*keys.shape, *shape)
