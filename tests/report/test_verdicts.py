"""Every word about a result follows from its numbers by the rules of verdicts."""

from __future__ import annotations

from typing import Any

import pytest

from realdataexp.report import verdicts

ENTRY = {
    "design": "pooling", "label": "click", "gte": 10.0, "estimate": 10.1, "bias": 0.1,
    "bias_mc_se": 0.5, "rmse": 1.0, "sign_error_rate": 0.0,
}  # fmt: skip
WELCH = {
    "design": "pooling", "label": "click", "se_method": "welch", "n_intervals": 40,
    "coverage": 0.95, "coverage_low": 0.83, "coverage_high": 0.99,
    "reject_share": 0.05, "reject_low": 0.006, "reject_high": 0.17,
    "trustworthy": True,
}  # fmt: skip
TOLD = {"value": 2.0, "se": 0.5, "ci_low": 1.0, "ci_high": 3.0}


def compared(*entries: dict[str, Any], inference: Any = (), aa: bool = False) -> dict[str, Any]:
    return {
        "config": {"experiment": {"aa": aa}},
        "comparison": list(entries),
        "inference": list(inference),
    }


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({}, "found", "raises it by 2.00 per visit, 95 % interval 1.00 to 3.00"),
        ({"value": -2.0, "ci_low": -3.0, "ci_high": -1.0}, "found", "lowers it by 2.00 per visit"),
        ({"ci_low": -1.0}, "none", "no effect found: 2.00 per visit"),
        ({"ci_low": 0.0}, "none", "no effect found"),
        ({"value": 0.0, "ci_low": 0.0, "ci_high": 0.0, "se": 0.0}, "none", "by construction"),
        ({"ci_low": None, "ci_high": None, "se": None}, "unknown", "one replication cannot tell"),
        ({"value": None}, "unknown", "no answer"),
    ],
)
def test_the_effect(changes: dict[str, Any], kind: str, words: str):
    found = verdicts.effect({**TOLD, **changes})
    assert found.kind == kind
    assert words in found.words


def test_the_effect_names_its_unit():
    assert "by 2.00 ms per visit, 95 %" in verdicts.effect(TOLD, unit="ms").words
    assert "found: 2.00 ms per visit" in verdicts.effect({**TOLD, "ci_low": -1.0}, unit="ms").words


def test_the_effect_in_percent():
    assert "(+12.5 %)" in verdicts.effect(TOLD, 12.5).words


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"bias": None}, "unknown", "no answer"),
        ({"bias_mc_se": None}, "unknown", "one replication hides"),
        ({}, "none", "no bias found (could be up to 1.10, 11 % of the effect)"),
        ({"bias": 1.0}, "none", "no bias found (could be up to 2.00, 20 % of the effect)"),
        ({"bias_mc_se": 1.0}, "unclear", "more replications would tell"),
        ({"bias": 2.0, "estimate": 12.0}, "found", "overstates the effect by 2.00 ± 0.50, 20 %"),
        ({"bias": -2.0, "estimate": 8.0}, "found", "understates the effect by 2.00"),
        ({"bias": -12.0, "estimate": -2.0}, "found", "turns the sign"),
        ({"bias": -2.0, "estimate": -12.0, "gte": -10.0}, "found", "overstates the effect"),
        ({"bias": 0.3, "bias_mc_se": 0.1}, "small", "a small bias: off by 0.30"),
        ({"bias": 0.31, "bias_mc_se": 0.1}, "found", "overstates"),
        ({"gte": 0.0}, "none", "no bias found (could be up to 1.10)"),
        ({"gte": 0.0, "bias": 2.0}, "found", "where there is no effect"),
        ({"bias": 0.0, "bias_mc_se": 0.0}, "none", "no bias found"),
    ],
)
def test_a_bias(changes: dict[str, Any], kind: str, words: str):
    found = verdicts.bias({**ENTRY, **changes})
    assert found.kind == kind
    assert words in found.words


REFUTED = {**WELCH, "trustworthy": False}
CUPED = {**WELCH, "se_method": "cuped"}
COVERS = "intervals (Welch's) hold the truth in 95 % (83 to 99 %) of tests"


@pytest.mark.parametrize(
    ("entries", "is_aa", "kind", "words"),
    [
        ([WELCH], False, "good", COVERS),
        ([REFUTED], False, "bad", f"{COVERS}: too rarely, and no other method does better"),
        ([REFUTED, CUPED], False, "good", "too rarely; better cuped"),
        ([REFUTED, {**CUPED, "trustworthy": False}], False, "bad", "no other method"),
        ([REFUTED, {**CUPED, "trustworthy": None}], False, "bad", "no other method"),
        ([{**WELCH, "n_intervals": 19}], False, "unknown", "too few intervals (19)"),
        ([{**WELCH, "coverage": None}], False, "unknown", "too few"),
        ([CUPED], False, "unknown", "too few intervals (0)"),
        ([], False, "unknown", "too few intervals (0)"),
        ([{**WELCH, "n_intervals": 19}], True, "unclear", "too few intervals (19)"),
        ([WELCH], True, "good", "exclude 0 in 5 % (1 to 17 %) of tests"),
        ([REFUTED], True, "bad", "exclude 0 in 5 % (1 to 17 %) of tests: too often"),
    ],
)
def test_intervals(entries: list[dict[str, Any]], is_aa: bool, kind: str, words: str):
    found = verdicts.intervals(entries, is_aa)
    assert found.kind == kind
    assert words in found.words
    assert found.is_news == (kind != "unknown")


@pytest.mark.parametrize(
    ("rate", "gte", "is_said"),
    [(0.06, 10.0, True), (0.05, 10.0, False), (None, 10.0, False), (0.5, 0.0, False)],
)
def test_sign_errors(rate: float | None, gte: float, is_said: bool):
    found = verdicts.signs({**ENTRY, "sign_error_rate": rate, "gte": gte})
    assert (found is not None) == is_said
    assert found is None or "6 % of tests point the wrong way" in found.words


BAD = {"design": "bad", "bias": 5.0, "estimate": 15.0}


@pytest.mark.parametrize(
    ("changes", "inference", "aa", "trust"),
    [
        ({}, [WELCH], False, "trust"),
        ({}, [], False, "trust"),
        ({"bias": 5.0}, [WELCH], False, "distrust"),
        ({"bias_mc_se": 2.0}, [WELCH], False, "unclear"),
        ({"bias": None}, [], False, "unclear"),
        ({}, [REFUTED], False, "distrust"),
        ({"bias_mc_se": 2.0}, [REFUTED], False, "distrust"),
        ({}, [REFUTED, CUPED], False, "trust"),
        ({"gte": 0.0}, [REFUTED], True, "distrust"),
        ({"gte": 0.0}, [WELCH], True, "trust"),
        ({"gte": 0.0}, [], True, "unclear"),
    ],
)
def test_a_verdict(changes: dict[str, Any], inference: Any, aa: bool, trust: str):
    (found,) = verdicts.verdicts(compared({**ENTRY, **changes}, inference=inference, aa=aa))
    assert found.trust == trust


def test_one_bad_label_is_enough():
    entries = (ENTRY, {**ENTRY, "label": "play_time", "bias": 5.0})
    (found,) = verdicts.verdicts(compared(*entries))
    assert found.trust == "distrust"
    assert set(found.reasons) == {"click", "play_time"}


def test_the_headline_names_the_one_with_the_least_error_first():
    judged = verdicts.verdicts(
        compared(
            {**ENTRY, **BAD},
            {**ENTRY, "design": "wide", "rmse": 3.0},
            {**ENTRY, "design": "best", "rmse": 0.5},
            {**ENTRY, "design": "noisy", "bias_mc_se": 3.0},
        )
    )
    assert verdicts.headline(judged) == [
        "Trust best; wide too.",
        "Do not trust bad.",
        "These replications cannot tell about noisy.",
        "Intervals are not judged: that takes 20 replications.",
    ]
    judged = verdicts.verdicts(compared(ENTRY, inference=[WELCH]))
    assert verdicts.headline(judged) == ["Trust pooling."]


@pytest.mark.parametrize(
    ("n_looks", "bias", "kind"),
    [(1, 1.05, "found"), (10, 1.05, "doubtful"), (10, 1.39, "doubtful"), (10, 1.42, "found")],
)
def test_one_of_many_looks_must_see_more_before_a_bias_counts(n_looks: int, bias: float, kind: str):
    """Bonferroni for ten looks: norm.isf(0.0025) = 2.807 standard errors of 0.5."""
    found = verdicts.bias({**ENTRY, "bias": bias, "bias_mc_se": 0.5}, n_looks)
    assert found.kind == kind
    assert ("perhaps by chance, as the run has 10 such looks" in found.words) == (
        kind == "doubtful"
    )


def test_a_doubtful_bias_makes_a_doubtful_design():
    entries = [{**ENTRY, "design": f"d{i}"} for i in range(9)]
    doubted = {**ENTRY, "design": "odd", "bias": 1.2, "bias_mc_se": 0.5}
    judged = verdicts.verdicts(compared(*entries, doubted))
    assert {v.design: v.trust for v in judged}["odd"] == "doubtful"
    said = verdicts.headline(judged)
    assert "Doubtful: odd, whose bias may be chance." in said
    assert not any("Do not trust" in sentence for sentence in said)
