"""A run whose networks skip many of their updates fails.

Axes: S stacked networks.
"""

from __future__ import annotations

from collections.abc import Sequence

from realdataexp.errors import RunError
from realdataexp.learner import skipped_share
from realdataexp.runs.shard import Updates


def refuse_skips(
    updates: Updates,
    labels: str,
    networks: Sequence[str],
    block: str,
    max_share: float,
    use_amp: bool,
) -> None:
    """Look at a phase's updates so far.

    Args:
        updates: those of the networks so far.
        labels: what they predict.
        networks: S names.
        block: the config's block of the phase.
        max_share: its ``max_skipped_share``.
        use_amp: whether the run computes in mixed precision.

    Raises:
        RunError: a network skipped more than ``max_share`` of its due updates.
    """
    share_S = skipped_share(updates.n_updates_S, updates.n_skipped_S)
    worst = int(share_S.argmax())
    share = float(share_S[worst])
    if share <= max_share:
        return
    n_due = int(updates.n_updates_S[worst] + updates.n_skipped_S[worst])
    amp = ", or set use_amp: false" if use_amp else ""
    raise RunError(
        f"label {labels}, network {networks[worst]}: {100 * share:.0f} % of its {n_due} updates "
        f"were skipped because a loss or gradient was not finite, more than "
        f"{block}.max_skipped_share = {max_share:g} allows: lower the "
        f"learning rate, set {block}.gradient_clip{amp}"
    )
