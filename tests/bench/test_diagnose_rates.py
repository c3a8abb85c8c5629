"""The rates of the checks: who is asked, what is kept of it, and the table in the docs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scipy.stats import binom

from bench import diagnose_rates as rates
from realdataexp.errors import InputError
from realdataexp.registry import names

PAGE = Path(__file__).parents[2] / "docs" / "diagnose.md"


def cells(page: Path) -> list[list[str]]:
    """Of the table between a page's comments, without its head."""
    text = page.read_text(encoding="utf-8").split(rates.BEGIN)[1].split(rates.END)[0]
    rows = [line.strip("| ").split(" | ") for line in text.strip().splitlines()[2:]]
    return [[x.strip() for x in ["", "", "", *row][-7:]] for row in rows]


def test_the_docs_have_each_check_s_rates_over_200_trainings_and_each_fault():
    rows = cells(PAGE)
    heads = [row for row in rows if row[0]]
    assert [row[0].strip("`") for row in heads] == list(names("check"))
    for row in heads:
        assert int(row[2].split(" of ")[1].split()[0]) >= 200, row[0]
    assert sorted(row[3] for row in rows) == sorted(x.words for x in rates.FAULTS)
    assert not any("none asked" in x for row in rows for x in row)


def test_every_check_has_a_fault_and_200_trainings_that_it_can_tell_of():
    assert {x.check for x in rates.FAULTS} == set(names("check"))
    kinds = [rates.kind_of(i) for i in range(300)]
    assert sum(x.is_trained and x.checks == list(names("check")) for x in kinds) == 200
    models = Counter((x.model, x.is_trained) for x in kinds)
    assert all(models[model, trained] > 10 for model in rates._RATES for trained in (False, True))


class Asked:
    """What checks would say: beam_recall nothing of each third, data a fault of the second."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.checks: list[tuple[int, str]] = []
        monkeypatch.setattr(rates, "diagnose", self.diagnose)
        monkeypatch.setattr(rates, "sound", lambda i, folder: None)

    def diagnose(self, subject: object, checks: Sequence[str], seed: int) -> dict[str, Any]:
        self.checks += [(seed, x) for x in checks]
        return {"checks": [{"check": x, "verdict": self.verdict(x, seed)} for x in checks]}

    def verdict(self, check: str, seed: int) -> str:
        if (check, seed % 3) == ("beam_recall", 2):
            return "cannot tell"
        return "fault" if (check, seed) == ("data", 1) else "ok"


def test_each_check_is_asked_until_it_has_told_enough_and_never_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path, checks = tmp_path / "rates.jsonl", ["data", "beam_recall"]
    asked = Asked(monkeypatch)
    rates.ask_of_sound(rates.Answers(path), 4, tmp_path, checks)
    every = [(i, x) for i in range(4) for x in checks] + [(4, "beam_recall")]
    assert sorted(asked.checks) == sorted(every)
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])  # killed while it wrote the last line
    asked.checks.clear()
    answers = rates.Answers(path)
    rates.ask_of_sound(answers, 4, tmp_path, checks)
    assert asked.checks == [(4, "beam_recall")]
    assert path.read_bytes() == whole
    assert answers.verdicts("data", "sound") == {"ok": 3, "fault": 1}
    assert answers.verdicts("beam_recall", "sound") == {"ok": 4, "cannot tell": 1}


def test_a_fault_is_planted_in_trainings_of_three_sizes(tmp_path: Path):
    (fault,) = [x for x in rates.FAULTS if x.check == "data"]
    answers = rates.Answers(tmp_path / "rates.jsonl")
    rates.ask_of_faulty(answers, 1, tmp_path, [fault])
    found = [(x["size"], x["verdict"]) for x in answers.rows.values()]
    assert found == [(size, "fault") for size in rates.SIZES]


def test_a_training_that_has_ended_is_sound(tmp_path: Path):
    answers = rates.Answers(tmp_path / "rates.jsonl")
    rates.ask_of_sound(answers, 1, tmp_path, ["best_is_tested"])
    assert answers.verdicts("best_is_tested", "sound") == {"ok": 1}


def test_limits_are_those_of_the_binomial_distribution():
    assert rates._alarms(Counter(ok=200)) == "0 of 200 (≤ 1.5 %)"  # 1 - .05 ** (1 / 200)
    assert rates._found(Counter(fault=10)) == "10 of 10 (≥ 74 %)"  # .05 ** (1 / 10)
    assert rates._alarms(Counter(ok=195, fault=5)) == "5 of 200 (≤ 5.2 %)"
    assert binom.cdf(5, 200, 0.0515) > 0.05 > binom.cdf(5, 200, 0.0525)
    some = {"fault": 1, "ok": 1, "cannot tell": 1}
    assert rates._found(Counter(some)) == "1 of 3, 1 cannot tell (≥ 2 %)"
    assert rates._found(Counter({"cannot tell": 3})) == "cannot tell"


def test_a_page_gets_the_table_between_its_comments(tmp_path: Path):
    out, page = tmp_path / "rates.jsonl", tmp_path / "page.md"
    page.write_text(f"before\n{rates.BEGIN}\n| replaced |\n{rates.END}\nafter\n")
    rates.main(["--out", str(out), "--sound", "0", "--faulty", "0", "--table", str(page)])
    assert page.read_text().startswith(f"before\n{rates.BEGIN}\n| check | whether |")
    assert page.read_text().endswith(f" |\n{rates.END}\nafter\n")
    assert "replaced" not in page.read_text()
    assert [row[0].strip("`") for row in cells(page) if row[0]] == list(names("check"))
    page.write_text("no comments")
    with pytest.raises(InputError, match="needs the lines"):
        rates.write_table(page, rates.Answers(out))
