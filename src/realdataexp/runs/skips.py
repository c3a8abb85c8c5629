"""A run whose networks cannot learn or predict fails: it would answer nothing.

Axes: S stacked networks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from realdataexp.errors import RunError
from realdataexp.learner import skipped_share
from realdataexp.metrics import Figures

_REMEDY = "mend the model, or lower the learning rate"
_FEW, _MANY = 20, 0.5  # updates that are too few to judge before a phase is over; then this share


def refuse_skips(
    n_updates_S: Tensor,
    n_skipped_S: Tensor,
    labels: str,
    networks: Sequence[str],
    block: str,
    max_share: float,
    use_amp: bool,
    *,
    is_over: bool = False,
) -> None:
    """Look at a phase's updates so far.

    Args:
        n_updates_S: made by each network so far.
        n_skipped_S: skipped by each.
        labels: what they predict.
        networks: S names.
        block: the config's block of the phase.
        max_share: its ``max_skipped_share``.
        use_amp: whether the run computes in mixed precision.
        is_over: whether the phase is; it may have had fewer than 20 updates.

    Raises:
        RunError: a network skipped more than ``max_share`` of its due updates; of fewer than 20,
            more than half.
    """
    n_due_S = n_updates_S + n_skipped_S
    share_S = skipped_share(n_updates_S, n_skipped_S, 1 if is_over else _FEW)
    limits = max_share, max(max_share, _MANY)
    worst = int((share_S - torch.where(n_due_S < _FEW, limits[1], limits[0])).argmax())
    n_due, n_skipped = int(n_due_S[worst]), int(n_skipped_S[worst])
    limit = limits[n_due < _FEW]
    # in Python's numbers: float32's share of 2 in 20 is above 0.1
    if not float(share_S[worst]) or n_skipped / n_due <= limit:
        return
    amp = ", or set use_amp: false" if use_amp else ""
    allowed = f"{block}.max_skipped_share = {max_share:g} allows"
    raise RunError(
        f"label {labels}, network {networks[worst]}: {100 * n_skipped / n_due:.0f} % of its "
        f"{n_due} updates were skipped because a loss or gradient was not finite, "
        f"more than {allowed if limit == max_share else 'half'}: lower the "
        f"learning rate, set {block}.gradient_clip{amp}"
    )


def refuse_predictions(found: Figures, networks: Sequence[str], model: str) -> None:
    """Look at a label's predictions for held-out users.

    Args:
        found: the label's metrics of S networks.
        networks: S names.
        model: what computes them, as the config names it.

    Raises:
        RunError: some are not finite.
    """
    worst = int(found.n_nonfinite.argmax())
    n_bad = int(found.n_nonfinite[worst])
    if n_bad:
        n = n_bad + int(next(iter(found.counts.values()))[worst])
        raise RunError(
            f"label {found.label}, network {networks[worst]} ({model}): {n_bad} of {n} predictions "
            f"for held-out users are not finite: {_REMEDY}"
        )


def refuse_extremes(
    label: str, extreme_S2: Tensor, networks: Sequence[str], models: Sequence[str]
) -> None:
    """Look at the least and the greatest of a label's predictions, or of the weights.

    Args:
        label: whose predictions; empty for weights, which must not be negative either.
        extreme_S2: both, NaN where a number was.
        networks: S names.
        models: what gave the numbers of each network, as the config names it.

    Raises:
        RunError: a number was not finite, or a weight negative.
    """
    is_bad_S = ~extreme_S2.isfinite().all(1)
    if not label:
        is_bad_S |= extreme_S2[:, 0] < 0
    if not bool(is_bad_S.any()):
        return
    worst = int(is_bad_S.int().argmax())
    least, greatest = extreme_S2[worst].tolist()
    what = f"label {label}, network" if label else "weights of network"
    wanted = f"finite numbers: {_REMEDY}" if label else "finite numbers, 0 or more: mend the design"
    raise RunError(
        f"{what} {networks[worst]} ({models[worst]}): {'predicted ' if label else ''}values from "
        f"{least:g} to {greatest:g} so far; wanted {wanted}"
    )
