"""Every word about a result follows from its numbers by the rules of verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from realdataexp.registry import names
from realdataexp.report import verdicts
from realdataexp.report.files import Compared, Effect, RunResult
from realdataexp.report.verdicts import Bias

ENTRY = {
    "design": "pooling", "label": "click", "gte": 10.0, "estimate": 10.1, "bias": 0.1,
    "bias_mc_se": 0.5, "bias_df": 39, "n_worlds": 40, "rmse": 1.0, "sign_error_rate": 0.0,
}  # fmt: skip
WELCH = {
    "design": "pooling", "label": "click", "se_method": "welch", "n_intervals": 40,
    "coverage": 0.95, "coverage_low": 0.83, "coverage_high": 0.99,
    "reject_share": 0.05, "reject_low": 0.006, "reject_high": 0.17,
    "trustworthy": True,
}  # fmt: skip
TOLD = {
    "design": "global",
    "label": "click",
    "value": 2.0,
    "se": 0.5,
    "ci_low": 1.0,
    "ci_high": 3.0,
}


def compared(*entries: dict[str, Any], inference: Any = (), aa: bool = False) -> RunResult:
    return RunResult.of(
        {
            "schema_version": 1,
            "config": {"experiment": {"aa": aa}},
            "comparison": list(entries),
            "inference": list(inference),
        }
    )


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, "found", "raises it by 2.00 per visit, 95 % interval 1.00 to 3.00"),
        ({"value": -2.0, "ci_low": -3.0, "ci_high": -1.0}, "found", "lowers it by 2.00 per visit"),
        ({"ci_low": -1.0}, "none", "no effect found: 2.00 per visit"),
        ({"ci_low": 0.0}, "none", "no effect found"),
        ({"value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "se": 0.0}, "none", "by construction"),
        ({"ci_low": None, "ci_high": None, "se": None}, "unknown", "there is one replication"),
        ({"value": None}, "unknown", "no answer"),
    ],
)
def test_the_effect(changes: dict[str, Any], kind: str, words: str):
    found = verdicts.effect(Effect(**{**TOLD, **changes}))
    assert found.kind == kind
    assert words in found.words


def test_the_effect_names_its_unit():
    assert "by 2.00 ms per visit, 95 %" in verdicts.effect(Effect(**TOLD), unit="ms").words
    said = verdicts.effect(Effect(**{**TOLD, "ci_low": -1.0}), unit="ms").words
    assert "found: 2.00 ms per visit" in said


def test_the_effect_in_percent():
    assert "(+12.5 %)" in verdicts.effect(Effect(**TOLD), 12.5).words


@pytest.mark.parametrize(
    ("changes", "n_biases", "kind", "words"),
    [
        ({"bias": None}, 1, "unknown", "no answer"),
        ({"bias_mc_se": None}, 1, "unknown", "bias 0.1, with an unknown error: there is one repl"),
        ({}, 1, "none", "no bias found; at most 1.11, 11 % of the effect"),
        (
            {"bias_mc_se": 1.0}, 1, "unclear",
            "bias 0.1 ± 1.0; up to 2.1, 21 % of the effect, is not excluded; about 110 ",
        ),
        ({"bias": 2.0}, 1, "found", "overstates the effect by 20 % (bias 2.00 ± 0.50)"),
        ({"bias": -2.0}, 1, "found", "understates the effect by 20 % (bias -2.00 ± 0.50)"),
        ({"bias": -12.0}, 1, "found", "turns the sign, at -120 % of the effect (bias -12.00 ±"),
        ({"bias": -2.0, "gte": -10.0}, 1, "found", "overstates the effect by 20 % (bias -2.00"),
        ({"bias": 2.0, "gte": -10.0}, 1, "found", "understates the effect by 20 % (bias 2.00"),
        ({"bias": 0.29, "bias_mc_se": 0.1}, 1, "small", "overstates the effect by 2.9 % (bias"),
        ({"gte": 0.0}, 1, "none", "no bias found; at most 1.11"),
        ({"gte": 0.0, "bias": 2.0}, 1, "found", "off, where there is no effect (bias 2.00 ± 0.50)"),
        (
            {"bias": -1.2}, 10, "doubtful",
            "understates the effect by 12 % (bias -1.20 ± 0.50), perhaps by chance, as one of the "
            "10 biases of this run; about",
        ),
        (
            {"bias_df": 2, "n_worlds": 3}, 10, "few",
            "not judged with 3 replications (bias 0.10 ± 0.50); about",
        ),
        ({"bias_df": 2}, 10, "few", "not judged with 3 starting models (bias 0.10 ± 0.50); about"),
        ({"bias_df": 2, "bias_mc_se": 1e7}, 10, "few", "; over 100,000 starting models would"),
    ],
)  # fmt: skip
def test_a_bias(changes: dict[str, Any], n_biases: int, kind: str, words: str):
    found = Bias(Compared(**{**ENTRY, **changes}), n_biases)
    assert found.kind == kind
    assert words in found.words
    assert ("would decide" in found.words) == (kind in ("few", "doubtful", "unclear"))


@pytest.mark.parametrize(
    ("rate", "gte", "is_said"),
    [(0.06, 10.0, True), (0.05, 10.0, False), (None, 10.0, False), (0.5, 0.0, False)],
)
def test_sign_errors(rate: float | None, gte: float, is_said: bool):
    found = verdicts.signs(Compared(**{**ENTRY, "sign_error_rate": rate, "gte": gte}))
    assert (found is not None) == is_said
    assert found is None or found == "6 % of single tests have the wrong sign"


REFUTED = {**WELCH, "trustworthy": False, "coverage": 0.55}
UNJUDGED = {**WELCH, "trustworthy": None}
BAD = {"design": "bad", "bias": 5.0}


@pytest.mark.parametrize("inference", [[], [WELCH], [REFUTED], [UNJUDGED]])
@pytest.mark.parametrize(
    ("changes", "judgement"),
    [
        ({}, "unbiased"),
        ({"bias": 5.0}, "biased"),
        ({"bias": 0.29, "bias_mc_se": 0.1}, "small"),
        ({"bias_mc_se": 2.0}, "inconclusive"),
        ({"bias": None}, "few"),
        ({"bias_df": 3}, "few"),
        ({"gte": 0.0}, "unbiased"),
    ],
)
def test_whether_an_estimate_is_biased_does_not_depend_on_intervals(
    changes: dict[str, Any], judgement: str, inference: Any
):
    (found,) = verdicts.verdicts(compared({**ENTRY, **changes}, inference=inference))
    assert found.judgement == judgement


def test_one_biased_label_is_enough():
    entries = (ENTRY, {**ENTRY, "label": "play_time", "bias": 5.0})
    (found,) = verdicts.verdicts(compared(*entries))
    assert found.judgement == "biased"
    assert set(found.reasons) == {"click", "play_time"}


def test_the_headline_groups_designs_the_least_error_first():
    result = compared(
        {**ENTRY, **BAD},
        {**ENTRY, "design": "wide", "rmse": 3.0},
        {**ENTRY, "design": "best", "rmse": 0.5},
        {**ENTRY, "design": "noisy", "bias_mc_se": 3.0},
        {**ENTRY, "design": "noisier", "bias_mc_se": 4.0, "rmse": 2.0},
        {**ENTRY, "design": "near", "bias": 0.4, "bias_mc_se": 0.01},
    )
    assert verdicts.headline(result) == [
        "Unbiased as far as these replications can tell: best, wide.",
        "Biased by at most 5 % of the effect: near.",
        "Biased: bad.",
        "Inconclusive: noisy, noisier; about 2,500 replications would decide.",
        "Intervals are not judged: that takes 20 replications.",
    ]
    few = compared({**ENTRY, "bias_df": 1, "n_worlds": 2}, {**ENTRY, **BAD, "bias_mc_se": None})
    assert verdicts.headline(few)[0] == (
        "Too few replications to judge: pooling, bad; about 5 replications would decide."
    )


def test_one_of_many_biases_may_be_chance_in_every_place():
    """2.4 standard errors: beyond the limit of one bias, within that of ten."""
    entries = [{**ENTRY, "design": f"d{i}"} for i in range(9)]
    doubted = {**ENTRY, "design": "odd", "bias": 1.2, "bias_mc_se": 0.5}
    judged = {v.design: v for v in verdicts.verdicts(compared(*entries, doubted))}
    assert judged["odd"].judgement == "inconclusive"
    alone = verdicts.verdicts(compared(doubted))[0]
    assert alone.judgement == "biased"


def methods(design: str, label: str = "click", **judged: bool | None) -> list[dict[str, Any]]:
    entry = {**WELCH, "design": design, "label": label}
    return [
        {**entry, "se_method": name, "trustworthy": x, "coverage": 0.9 if x else 0.5}
        for name, x in judged.items()
    ]


def said_of_intervals(*inference: dict[str, Any], aa: bool = False) -> list[str]:
    return [
        x for x in verdicts.headline(compared(ENTRY, inference=inference, aa=aa)) if "nterval" in x
    ]


ALL = dict.fromkeys(names("interval method"), True)


def test_intervals_to_believe_are_named_of_those_that_were_run():
    found = said_of_intervals(
        *methods("shadow", welch=True, user_cluster=True, block=False),
        *methods("pooling", welch=False, user_cluster=True, block=False),
        *methods("other", welch=False, user_cluster=True, block=False),
        *methods("weighting", welch=False, user_cluster=False, block=False),
        *methods("oracle", welch=True, user_cluster=True, block=True),
        *methods("fresh", welch=None, user_cluster=None, block=None),
    )
    assert found == [
        "Intervals to believe: shadow: welch, user_cluster; pooling, other: user_cluster; "
        "weighting: none of the 3 run; oracle: all 3 run.",
        "Interval methods not run: cuped, bootstrap, randomisation, always_valid.",
    ]


def test_nothing_is_said_of_methods_that_were_not_run_but_that_they_were_not():
    (first, second) = said_of_intervals(*methods("pooling", welch=False))
    assert first == "Intervals to believe: pooling: not welch, the only one run."
    assert second.startswith("Interval methods not run: user_cluster, ")
    assert said_of_intervals(*methods("pooling", **ALL)) == [
        f"Intervals to believe: pooling: all {len(ALL)} run."
    ]


def test_a_method_is_believed_where_no_label_refutes_it():
    entries = [
        *methods("pooling", "click", welch=True, block=None, cuped=True),
        *methods("pooling", "play_time", welch=False, block=True, cuped=None),
        *methods("snapshot", welch=None),
    ]
    pooling, snapshot = verdicts.beliefs(compared(inference=entries))
    assert pooling.believed == ("block", "cuped")
    assert pooling.refuted == {"welch": {"play_time": 0.5}}
    assert snapshot.believed == () and snapshot.unjudged == ("welch",)
    (refuted,) = verdicts.beliefs(compared(inference=[REFUTED], aa=True))
    assert refuted.refuted == {"welch": {"click": REFUTED["reject_share"]}}
