"""Every detector on every design of a run: a row for each single test, and how often they alarm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from realdataexp.errors import InputError
from realdataexp.registry import ComponentError, calling, find, is_outside, names
from realdataexp.stats.detectors.base import MIN_STEPS, Detector, DetectorTables
from realdataexp.stats.estimates import TRUTH
from realdataexp.stats.inference import made_up_outcomes, require_intervals, short_name
from realdataexp.stats.intervals import ALPHA, Intervals, cannot_tell
from realdataexp.stats.performance import binomial_interval

ALARM, NO_ALARM, CANNOT_TELL = "alarm", "no alarm", "cannot tell"
_NOTHING_VARIES = "too few steps have both arms, or nothing varies"
DETECTION_SCHEMA = pl.Schema(
    {
        "design": pl.String, "world": pl.Int32,
        **dict.fromkeys(("label", "detector"), pl.String),
        **dict.fromkeys(("value", "se", "ci_low", "ci_high", "p_value"), pl.Float64),
        **dict.fromkeys(("verdict", "why"), pl.String),
    }
)  # fmt: skip


def find_detector(name: str, where: str) -> Detector:
    """The detector called ``name``, or ``package.module:Name``.

    Raises:
        InputError: there is none; ``where`` is the config path.
    """
    detector: Detector = find("detector", name, where)
    if not callable(detector):
        raise InputError(f"{where} = {name!r}: is no function of a design's tables")
    return detector


def rehearse_detector(name: str, where: str) -> None:
    """Find a detector, and have one from outside answer for a small made-up design.

    Raises:
        InputError: there is none, it fails, or it returns what it must not.
    """
    detector = find_detector(name, where)
    if is_outside(name):
        rows = made_up_outcomes(MIN_STEPS)
        ledger = rows.filter(label="label_0").select(
            "design", "world", "step", "arm", visits="n", differ=pl.lit(1), own_weight="sum",
            other_weight="sum",
        )  # fmt: skip
        tables = DetectorTables("rehearsal", rows, ledger, 2)
        _answer(name, detector, tables, f"{where} = {name!r}", InputError)


def _answer(
    name: str,
    detector: Detector,
    tables: DetectorTables,
    who: str,
    kind: type[Exception] = ComponentError,
) -> Intervals | str:
    """What a detector answers; one of ``kind`` where one from outside fails."""
    if not is_outside(name):
        return detector(tables)
    with calling(who, "its answer", kind):
        found = detector(tables)
        is_reason = isinstance(found, str) and found
        return found if is_reason else require_intervals(found, tables.n_cells)


def detection_table(
    outcomes: pl.DataFrame,
    ledger: pl.DataFrame,
    retrain_every: int,
    detectors: Sequence[str] | None = None,
    failed: list[str] | None = None,
) -> pl.DataFrame:
    """What each detector says of each test: every design but the truth, world and label.

    Args:
        outcomes: the table of outcomes.parquet.
        ledger: the table of ledger.parquet.
        retrain_every: steps between two rounds of training.
        detectors: their names; None for all that are registered.
        failed: takes why a detector from outside the package did not answer; None: that is raised.

    Returns:
        DETECTION_SCHEMA, ordered by design, detector, world and label. The verdict is an alarm
        where the p-value is at most 0.05; a detector that cannot tell says why.

    Raises:
        InputError: a detector that does not exist.
        ComponentError: one from outside fails, and there is no ``failed``.
    """
    asked = names("detector") if detectors is None else dict.fromkeys(detectors)
    known = {name: find_detector(name, "detectors") for name in asked}
    frames = []
    for (design,), ours in outcomes.group_by(["design"], maintain_order=True):
        if design == TRUTH:
            continue
        theirs = ledger.filter(pl.col("design") == design)
        tables = DetectorTables(str(design), ours, theirs, retrain_every)
        for name, detector in known.items():
            try:
                answer = _answer(name, detector, tables, f"detector {name!r}")
            except ComponentError as error:
                if failed is None:
                    raise
                failed.append(str(error))
                continue
            why = answer if isinstance(answer, str) else _NOTHING_VARIES
            found = cannot_tell(tables.n_cells) if isinstance(answer, str) else answer
            frame = tables.cells.select(
                pl.lit(str(design)).alias("design"), "world", "label",
                pl.lit(short_name(name)).alias("detector"), *found.columns(),
            )  # fmt: skip
            frames.append(frame.with_columns(*_verdicts(why)))
    if not frames:
        return pl.DataFrame(schema=DETECTION_SCHEMA)
    return pl.concat(frames).cast(DETECTION_SCHEMA)


def _verdicts(why: str) -> tuple[pl.Expr, pl.Expr]:
    """The columns verdict and why, from the p-value."""
    p, is_known = pl.col("p_value"), pl.col("p_value").is_not_null()
    verdict = pl.when(p <= ALPHA).then(pl.lit(ALARM)).when(is_known).then(pl.lit(NO_ALARM))
    return (
        verdict.otherwise(pl.lit(CANNOT_TELL)).alias("verdict"),
        pl.when(is_known).then(pl.lit("")).otherwise(pl.lit(why)).alias("why"),
    )


def detector_results(detections: pl.DataFrame) -> list[dict[str, Any]]:
    """An entry for each design, label and detector: how many of the tests alarm.

    ``alarm_share`` of the ``n_tests`` with a p-value, with its exact binomial 95 % interval as
    ``alarm_low`` and ``alarm_high``; ``value``, the mean of their values. The verdict on one test
    is its own; that on several is an alarm where more than 5 % alarm, beyond chance. Where no test
    has a p-value these are left out, and ``why`` says so.
    """
    entries = []
    keys = ["design", "label", "detector"]
    for of, group in detections.group_by(keys, maintain_order=True):
        told = group.filter(pl.col("verdict") != CANNOT_TELL)
        n, n_alarms = told.height, int((told["verdict"] == ALARM).sum())
        entry = dict(zip(keys, of, strict=True)) | {"n_tests": n}
        if n:
            low, high = binomial_interval(n_alarms, n)
            value = float(told["value"].to_numpy().mean())
            is_alarm = n_alarms == 1 if n == 1 else low > ALPHA
            entry |= {
                "verdict": ALARM if is_alarm else NO_ALARM, "alarm_share": n_alarms / n,
                "alarm_low": low, "alarm_high": high, "value": value,
            }  # fmt: skip
        else:
            entry |= {"verdict": CANNOT_TELL, "why": group["why"][0]}
        entries.append(entry)
    return entries
