"""The files of a run folder, made from what a run has come to so far, and what is doubtful in them.

A doubt is a warning: where the test can show little, and why a number is missing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from realdataexp.data.parquet import write_parquet
from realdataexp.errors import Warnings
from realdataexp.files import write_json
from realdataexp.report.page import write_report
from realdataexp.report.plots import write_plot
from realdataexp.runs.checkpoint import LOOP
from realdataexp.runs.folder import finite
from realdataexp.runs.machine import peak_memory_mb, versions
from realdataexp.stats.aggregates import LEAST_P_VALUE, ratio_p_value
from realdataexp.stats.detection import detection_table, detector_results
from realdataexp.stats.estimates import TRUTH, summarise
from realdataexp.stats.inference import (
    applies,
    compared,
    design_tables,
    designs_without_units,
    find_method,
    inference_table,
    needs_units,
    short_name,
)
from realdataexp.stats.ledger import ledger_results
from realdataexp.stats.performance import (
    family_rejections,
    gte_results,
    judge,
    plan,
    section,
    two_groups,
)
from realdataexp.stats.prediction import prediction_quality

if TYPE_CHECKING:
    from realdataexp.loop import Block
    from realdataexp.runs.experiment import Run

logger = logging.getLogger("realdataexp")

SCHEMA_VERSION = 1
_INNER = ("validation", "checkpoint", "tracking")  # what the loop and pretraining stop for
_FEW_DIFFER = 0.1
_MANY_SHORT = 0.5
_WEIGHT_OFF = 0.1
_MANY_LOST = 0.01
_ONE = "one replication has no spread; set experiment.replications to 2 or more"
_ONE_EACH = (
    "no two replications begin from the same starting model, so the spread of a single test is "
    "unknown; raise experiment.replications, or lower experiment.starts"
)
_NO_EFFECT = "both arms do the same in every replication, so there is nothing to test"
_CONSTANT = "the label's outcomes do not vary, so nothing can be said; choose another target"
_NO_COVARIATE = (
    "the covariate of cuped, a unit's mean outcome before the test, is missing or the same for all "
    "units; leave cuped out of experiment.intervals"
)
_NOT_FORETOLD = (
    "no model predicts this outcome, or the same for all users; give it one (labels), or leave "
    "aipw and cupac out of experiment.intervals"
)
_OF_ADJUSTED = {"cuped": _NO_COVARIATE, "cupac": _NOT_FORETOLD, "aipw": _NOT_FORETOLD}
_TOO_FEW = "too few worlds or outcomes tell; experiment.replications of 20 or more would"
_NO_SIGN = "no effect has no sign"
_OF_WORLDS = ("estimates", "comparison")
_AGAINST_TRUTH = (
    "gte", "bias", "bias_mc_se", "bias_df", "rmse", "coverage", "sign_error_rate", "regret",
)  # fmt: skip


def write_results(run: Run, status: str) -> None:
    """Write every file of the run folder from what there is, complete or partial."""
    recorder, warnings, config, folder = run.recorder, run.warnings, run.config, run.folder
    recorder.flush()
    n_steps, blocks = config.simulation.n_steps, run.setup.blocks
    measured = pl.concat([recorder.outcomes(), recorder.ratios()])
    outcomes = with_shares(measured, blocks, n_steps)
    metrics, ledger = recorder.metrics(), recorder.ledger()
    units, diagnostics = recorder.units(run.setup.histories), recorder.diagnostics()
    failed: list[str] = []
    inference = inference_table(outcomes, units, _intervals(run, outcomes, units), failed)
    for text in failed:
        warnings.add("interval_method_failed", text)
    silent: list[str] = []
    asked, every = config.experiment.detectors, config.simulation.retrain_every
    detections = detection_table(outcomes, ledger, every, asked, silent)
    for text in silent:
        warnings.add("detector_failed", text)
    estimates = inference.filter(pl.col("se_method") == "welch")
    tables = {
        "outcomes": outcomes, "metrics": metrics, "estimates": inference, "units": units,
        "ledger": ledger, "detections": detections,
    }  # fmt: skip
    for name, table in tables.items():
        if table is not None:
            write_parquet(folder / f"{name}.parquet", table)
    is_aa, n_starts = config.experiment.aa, config.experiment.n_starts
    is_true = config.mode in ("global", "compare")
    judged = judge(inference, is_aa, n_starts) if is_true else []
    setup, device = run.setup, run.setup.device
    result = finite(
        {
            "schema_version": SCHEMA_VERSION,
            "mode": config.mode,
            "seed": config.seed,
            "status": status,
            "n_steps_done": run.n_steps_done,
            "config": config.decisive(),
            "dataset_stats": {
                **setup.environment.stats(),
                "identity": setup.environment.identity(),
                "n_held_out_users": run.validator.n_users,
                "n_held_out_rows": run.validator.n_rows,
                "label_scales": {
                    x.config.name: dataclasses.asdict(x.head.scale) for x in setup.labels
                },
            },
            "gte_results": gte_results(outcomes, run.setup.ratios) if is_true else {},
            "estimates": summarise(estimates, n_starts),
            "comparison": section(judged, "comparison"),
            "inference": section(judged, "inference"),
            "family": family_rejections(inference) if is_true else [],
            "regret": section(judged, "regret"),
            "plan": [] if is_aa else plan(judged),
            "ledger": ledger_results(ledger),
            "detectors": detector_results(detections),
            "weights": run.weight_metrics,
            "metrics_summary": _last_metrics(metrics),
            "prediction": prediction_quality(metrics, n_starts),
            "best": run.checkpoints.best.get(LOOP, {}),
            "diagnostics": diagnostics,
            "warnings": [],
            "device": {
                "name": device.name,
                "reason": device.reason,
                "threads": run.n_processes,  # one in each
                "processes": run.n_processes,
            },
            "timing": _timing(run),
            "versions": versions(),
        },
        warnings,
    )
    warn_of_design(diagnostics, config.simulation.n_candidate, run.n_steps_done, warnings, is_aa)
    warn_of_weights(run.weight_metrics, diagnostics, warnings)
    for label, n_skipped in run.n_skipped.items():
        warn_of_updates(label, n_skipped, "simulation", warnings)
    warn_of_arms(estimates, warnings)
    unplanned = [
        block.label
        for block in blocks
        if block.design.is_credited or len(planned_shares(block, n_steps)) > 1
    ]
    warn_of_ratios(diagnostics, config.experiment.p_treatment, warnings, unplanned)
    warn_of_intervals(result["inference"], warnings)
    warn_of_groups(inference, n_starts, warnings)
    warn_of_nulls(result, warnings)
    if status == "complete":
        for text in run.tracking.send_last(metrics, outcomes, result):
            warnings.add("tracker_failed", text)
    result["warnings"] = warnings.items
    write_json(folder / "result.json", result)
    _draw(run)
    if status == "complete" and (failed := run.tracking.finish()):
        for text in failed:
            warnings.add("tracker_failed", text)
        write_json(folder / "result.json", result)
        _draw(run)
    say = logger.info if status == "complete" else logger.warning
    say("[result] %s after %d steps: %s", status, run.n_steps_done, folder)


def planned_shares(block: Block, n_steps: int) -> dict[float, None]:
    """The shares of visits that a design treats, each once, by the order of its steps."""
    return dict.fromkeys(block.design.treated_share(t, n_steps, block.p) for t in range(n_steps))


def with_shares(outcomes: pl.DataFrame, blocks: Sequence[Block], n_steps: int) -> pl.DataFrame:
    """The table of outcomes with ``p``: how likely a visit of the step was to be treated."""
    rows = [
        (block.label, t, block.design.treated_share(t, n_steps, block.p))
        for block in blocks
        if block.label != TRUTH
        for t in range(n_steps)
    ]
    schema = {"design": pl.String, "step": pl.Int32, "p": pl.Float64}
    shares = pl.DataFrame(rows, schema=schema, orient="row")
    joined = outcomes.join(shares, on=["design", "step"], how="left", maintain_order="left")
    return joined.with_columns(pl.col("p").fill_null((pl.col("arm") == "T").cast(pl.Float64)))


def _draw(run: Run) -> None:
    """plot.svg and report.html."""
    if run.config.logging.pictures is not False:
        write_plot(run.folder)
        write_report(run.folder)


def _intervals(
    run: Run, outcomes: pl.DataFrame, units: pl.DataFrame | None
) -> tuple[str, ...] | None:
    """The interval methods that are asked for; None for all that apply."""
    names = run.config.experiment.intervals
    if names is None:
        return None
    methods = {name: find_method(name, "experiment.intervals") for name in names}
    left_out = [short_name(name) for name, method in methods.items() if needs_units(method)]
    designs = designs_without_units(outcomes, units)
    if left_out and designs:
        run.warnings.add(
            "intervals_without_units",
            f"experiment.intervals: {', '.join(left_out)} need units that come more than once; "
            f"in {', '.join(designs)} every visit is a new one",
        )
    for name, method in methods.items():
        if (what := compared(method)) is None:
            continue
        found = (x for x in design_tables(outcomes, units) if x.design != TRUTH)
        if without := [x.design for x in found if not applies(method, x)]:
            run.warnings.add(
                "estimator_without_answer",
                f"experiment.intervals: {short_name(name)} compares {what}; there are none in "
                f"{', '.join(without)}",
            )
    return tuple(dict.fromkeys(("welch", *names)))  # plots and comparisons use welch


def _timing(run: Run) -> dict[str, Any]:
    seconds, monitor = run.clock.seconds, run.clock.monitor

    def own(phase: str, prefix: str = "") -> float:
        """Seconds of a phase alone."""
        inner = sum(seconds.get(f"{prefix}{part}", 0.0) for part in _INNER)
        return seconds.get(phase, 0.0) - inner

    stepping, pretraining = own("loop"), own("pretrain", "pretrain_")
    n = len(run.recorder.networks) * run.n_steps_done
    monitored = monitor.peak_memory_mb() if monitor else 0.0  # of the loop's processes too
    timing = {
        "total_seconds": run.clock.total,
        **{f"{phase}_seconds": s for phase, s in seconds.items()},
        "arm_steps_per_second": n / stepping if stepping > 0 and n else None,
        "peak_memory_mb": max(peak_memory_mb(), monitored),
        "device_peak_memory_mb": run.setup.device.memory_mb(),
    }
    if run.n_rows_pretrained and pretraining > 0:
        timing["pretrain_rows_per_second"] = run.n_rows_pretrained / pretraining
    return timing


def _last_metrics(metrics: pl.DataFrame) -> list[dict[str, Any]]:
    """The last value of each metric, averaged over worlds."""
    keys = ["phase", "design", "model", "label", "split", "metric"]
    last = metrics.filter(pl.col("split") != "data").filter(
        pl.col("step") == pl.col("step").max().over(keys)
    )
    of_last = (pl.col("step").first(), pl.col("value").mean(), pl.col("n").sum())
    groups = last.group_by(keys, maintain_order=True)
    return groups.agg(*of_last, pl.len().alias("n_networks")).to_dicts()


# --- doubts --------------------------------------------------------------------------------------


def warn_of_design(
    diagnostics: dict[str, Any],
    n_candidate: int,
    n_steps_done: int,
    warnings: Warnings,
    is_aa: bool = False,
) -> None:
    """Warn where arms hardly differ (but in an A/A test), visits get lost or the data run out."""
    if n_steps_done == 0:
        warnings.add("no_steps", "the run ended before the first step: there are no outcomes")
    shares = diagnostics["share_of_visits_where_arms_differ"].items()
    few = [f"{name} {100 * x:.1f} %" for name, x in shares if x is not None and x < _FEW_DIFFER]
    if few and not is_aa:
        warnings.add(
            "arms_hardly_differ",
            f"the arms would pick different items in few visits ({', '.join(few)}); so small a "
            "contrast can show next to nothing: let their scores differ more",
        )
    lost = [
        f"{name} {100 * x:.1f} %"
        for name, x in diagnostics["share_of_visits_lost"].items()
        if x is not None and x > _MANY_LOST
    ]
    if lost:
        warnings.add(
            "visits_lost",
            f"visits that did not take place, because their arm had no candidate to show "
            f"({', '.join(lost)}): who is left may not stand for all; raise "
            "simulation.n_candidate or simulation.min_candidates",
        )
    first = next((p for p in diagnostics["exhaustion"] if p["users_short"] > _MANY_SHORT), None)
    if first is not None:
        warnings.add(
            "data_running_out",
            f"from step {first['step']} on, more than half of the training users have fewer than "
            f"{n_candidate} unused rows: slates shrink and the arms' choice with them; lower "
            "n_candidate, n_steps or batch_size, or add logs",
        )


def warn_of_weights(
    figures: dict[str, dict[str, float]], diagnostics: dict[str, Any], warnings: Warnings
) -> None:
    """Warn of a weight model that learned nothing, and of weights that do not average to 1."""
    differ = diagnostics["share_of_visits_where_arms_differ"]
    for design, f in figures.items():
        if (
            "log_loss" in f  # an outside design may have figures of its own
            and f["log_loss"] >= f["log_loss_of_constant"]
            and (differ.get(design) or 0.0) >= _FEW_DIFFER
        ):
            warnings.add(
                "weight_model_learned_nothing",
                f"{design}: G's log loss {f['log_loss']:.4f} is no better than a constant's "
                f"{f['log_loss_of_constant']:.4f}, although the arms pick different items in "
                f"{100 * differ[design]:.0f} % of visits: its weights correct nothing; use "
                "another weighting.model, more steps, or the design shadow",
            )
        for model in "CT":
            mean = f.get(f"mean_weight_{model}")
            if mean is not None and abs(mean - 1.0) > _WEIGHT_OFF:
                warnings.add(
                    "weights_off",
                    f"{design}: the weights of model {model} average {mean:.3f}, not 1, in the "
                    "last validation: its training steps are too large or too small",
                )


def warn_of_updates(label: str, n_skipped: int, section: str, warnings: Warnings) -> None:
    """Warn of a network's updates that were skipped in a phase, the config's ``section``."""
    if n_skipped:
        warnings.add(
            "updates_skipped",
            f"label {label}: {n_skipped} updates skipped because a loss or gradient was not "
            f"finite; lower the learning rate or set {section}.gradient_clip",
        )


def warn_of_arms(estimates: pl.DataFrame, warnings: Warnings) -> None:
    """Warn of worlds without an estimate because nobody was in one of the arms."""
    n_worlds = estimates["world"].n_unique()
    groups: dict[tuple[str, int, tuple[str, ...]], list[str]] = {}
    for arm, column in (("treatment", "n_T"), ("control", "n_C")):
        lacking = estimates.filter(pl.col(column) == 0)
        for (design,), group in lacking.group_by(["design"], maintain_order=True):
            labels = tuple(group["label"].unique(maintain_order=True))
            key = (arm, group["world"].n_unique(), labels)
            groups.setdefault(key, []).append(str(design))
    for (arm, n, labels), designs in groups.items():
        warnings.add(
            "one_arm_only",
            f"{', '.join(designs)}: no outcome of {', '.join(labels)} in the {arm} arm in {n} of "
            f"{n_worlds} replications: no estimate there (null where it is all of them)",
        )


def warn_of_ratios(
    diagnostics: dict[str, Any], p: float, warnings: Warnings, unplanned: Sequence[str] = ()
) -> None:
    """Warn of designs whose treatment got another share than p, but those that plan another."""
    for design, n in diagnostics["units_by_arm"].items():
        if design in unplanned:
            continue
        n_T, n_C = n["T"], n["C"]
        p_value = ratio_p_value(n_T, n_C, p)
        if p_value < LEAST_P_VALUE:
            n_all = n_T + n_C
            warnings.add(
                "sample_ratio_mismatch",
                f"{design}: {n_T:,} of {n_all:,} units ({100 * n_T / n_all:.1f} %) got the "
                f"treatment, where p_treatment = {p:g} plans {100 * p:g} % (exact binomial test, "
                f"{p_value:.1g}): mend its assign(), or let its unit() say what is randomised as "
                "one; its estimates are not to be trusted",
            )


def warn_of_intervals(inference: Sequence[dict[str, Any]], warnings: Warnings) -> None:
    """Warn of designs none of whose interval methods is trustworthy, by the entries."""
    verdicts: dict[str, dict[str, dict[str, bool]]] = {}
    for entry in inference:
        if entry["trustworthy"] is not None:
            labels = verdicts.setdefault(entry["design"], {})
            labels.setdefault(entry["label"], {})[entry["se_method"]] = entry["trustworthy"]
    for design, labels in verdicts.items():
        bad = [label for label, trusted in labels.items() if not any(trusted.values())]
        if bad:
            methods = dict.fromkeys(method for label in bad for method in labels[label])
            warnings.add(
                "intervals_not_trustworthy",
                f"design {design}, label{'s' * (len(bad) > 1)} {', '.join(bad)}: none of the "
                f"interval methods run ({', '.join(methods)}) covers the true effect as often as "
                "it claims; other methods (experiment.intervals) may",
            )


def warn_of_groups(inference: pl.DataFrame, n_starts: int, warnings: Warnings) -> None:
    """Warn of designs whose worlds fall into two groups: see ``performance.two_groups``."""
    labels: dict[str, list[str]] = {}
    for x in two_groups(inference, n_starts):
        apart = f"{x.n_below} and {x.n_above} worlds, {x.gap_se:.1f} standard errors apart"
        labels.setdefault(x.design, []).append(f"{x.label} ({apart})")
    for design, how in labels.items():
        warnings.add(
            "worlds_in_groups",
            f"{design}: the worlds' effects fall into groups that chance within a test does not "
            f"explain: {', '.join(how)}: the loop may have more than one state, of which a single "
            "test sees one, and the mean over worlds may be that of none; look at them one by one",
        )


def warn_of_nulls(result: dict[str, Any], warnings: Warnings) -> None:
    """Say of every number that a result lacks why it does."""
    lacking: dict[tuple[str, str], tuple[dict[str, None], dict[str, None]]] = {}
    for part, key, who, reason in _nulls(result):
        keys, whose = lacking.setdefault((part, reason), ({}, {}))
        keys[key], whose[who] = None, None
    for (part, reason), (keys, whose) in lacking.items():
        text = f"{part}: {', '.join(keys)} null for {', '.join(whose)}: {reason}"
        warnings.add("no_number", text)


def _nulls(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Section, key, whose number it is, and why there is none."""
    for key, value in result["gte_results"].items():
        if value is None:
            yield "gte_results", key, "all designs", "the control world's total is 0"
    for part in _OF_WORLDS:
        for entry in result[part]:
            if entry["n_worlds"]:  # where there is none, warn_of_arms says why
                for key in _lacking(entry):
                    why = entry.get("percent_why") if key.startswith("percent") else None
                    yield part, key, _who(entry), why or _reason(entry, key)
    yield from _few(result)
    if result["n_steps_done"]:
        yield from _equal_scores(result)


def _few(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """MetricValues about intervals that need more worlds than there are, or an effect."""
    constant = [
        _who(x) for part in _OF_WORLDS for x in result[part] if 0 in (x.get("se"), x.get("sd"))
    ]
    found = result.get("inference", ())
    of_methods = {(_who(x), x.get("se_method", "")): x.get("se_mean") for x in found}
    told = [who for (who, _), se_mean in of_methods.items() if se_mean is not None]
    untold = {_who(x) for x in result["estimates"] if not x["n_worlds"]}
    tested = {x["design"] for x in result["estimates"] if x["n_worlds"]}
    for part in ("inference", "family", "regret", "plan"):
        for entry in result.get(part, ()):
            who, method = _who(entry), entry.get("se_method", "")
            if who in untold or entry["design"] not in tested:  # warn_of_arms says why
                continue
            is_silent = of_methods.get((who, method), 0.0) is None and who in told
            for key in _lacking(entry):
                if key == "sign_error_rate" and entry["gte"] == 0:
                    yield part, key, "some designs", _NO_SIGN
                elif who in constant:
                    yield part, key, who, _CONSTANT
                elif is_silent and method in _OF_ADJUSTED:
                    yield part, key, who, _OF_ADJUSTED[method]
                else:
                    yield part, key, "some designs", _TOO_FEW


def _lacking(entry: dict[str, Any]) -> list[str]:
    return [key for key, value in entry.items() if value is None]


def _who(entry: dict[str, Any]) -> str:
    return f"{entry.get('design')} of {entry.get('label')}"


def _equal_scores(result: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    """Shares of a variance that is 0."""
    key, arms = "label_share_of_score_variance", result.get("config", {}).get("arms") or {}
    rules = [arm[0].upper() for arm, policy in arms.items() if policy["score"] is None]
    for name, shares in result["diagnostics"][key].items():
        for arm, by_label in shares.items():
            if None in by_label.values():
                equal = "all scores on a slate were equal"
                reason = "it does not rank by labels" if arm in rules else equal
                yield "diagnostics", key, f"{name}, arm {arm}", reason


def _reason(entry: dict[str, Any], key: str) -> str:
    """Why an entry of ``estimates`` or ``comparison`` lacks a number."""
    if key == "sign_error_rate" and entry["gte"] == 0:
        return _NO_SIGN
    if key in _AGAINST_TRUTH and entry["gte"] is None:
        return "the truth has no value of it"
    if key in ("bias_mc_se", "sd", "se_ratio") and entry["sd"] is None:
        return _ONE_EACH if entry["n_worlds"] > 1 else _ONE
    if entry.get("se") == 0 or (key == "se_ratio" and entry["sd"] == 0):
        return _NO_EFFECT if entry.get("value") == 0 and entry["design"] == TRUTH else _CONSTANT
    return "fewer than two outcomes in an arm"
