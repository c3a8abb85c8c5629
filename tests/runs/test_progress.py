"""Progress: a bar on a terminal that leaves the log lines whole, plain lines elsewhere."""

from __future__ import annotations

import io
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import polars as pl
import processes
import pytest
from rich.console import Console
from screen import Screen, on_a_terminal

from realdataexp import terminal
from realdataexp.runs import progress
from realdataexp.runs.progress import PhaseProgress, _Bar, effects_so_far, fitted
from realdataexp.stats.aggregates import TOTALS_SCHEMA

RUN = [sys.executable, "-m", "realdataexp", "run"]
CONTROL = re.compile(r"\x1b|\r|[\x00-\x08]")


def shown(config: Path, out: Path, columns: int, *options: str, **env: str) -> tuple[list, Screen]:
    """What a run shows on a terminal of so many columns: each moment, and the end."""
    text = on_a_terminal([*RUN, str(config), "--out", str(out), *options], columns, **env)
    screen = Screen(columns)
    return list(screen.write(text)), screen


def folded(lines: list[str]) -> str:
    """Lines as one text, so that it does not matter where a terminal breaks them."""
    return " ".join(" ".join(lines).split())


DETAIL = re.compile(r"\[(validate|loop)\] step \d+: \w+, |\[weights\]")


def messages(log: Path, *, with_details: bool = False) -> list[str]:
    """The lines of run.log as they are shown: without the time, and as a rule without details."""
    lines = [re.sub(r"^(\[\w+\]) \S+ \S+ ", r"\1 ", line) for line in log.read_text().splitlines()]
    assert any(DETAIL.match(line) for line in lines)
    return [line for line in lines if with_details or not DETAIL.match(line)]


@pytest.mark.parametrize("columns", [80, 60])
def test_a_bar_and_the_effects_stay_below_whole_log_lines(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path, columns: int
):
    moments, screen = shown(small_config(), tmp_path / "out", columns)
    last = [moment[-2:] for moment in moments if "━" in "".join(moment[-2:])]
    assert any(re.match(r"pretrain .*━", line) for lines in last for line in lines)
    assert any(re.match(r"loop ━+.* \d+/10 .*steps/s", line) for lines in last for line in lines)
    note = r"GTE: play_time [-+]\d+ ± \d+ %  (click [-+]\d+ ± \d+ %|…)"
    assert any(re.fullmatch(note, moment[-1]) for moment in moments)
    assert not screen.has_wrapped_a_bar
    for moment in moments:  # at most one bar, and log lines above it
        assert sum("━" in line for line in moment if not line.startswith("─")) <= 1
    assert "━" not in "".join(screen.lines)  # nothing of it is left
    assert not [line for line in screen.lines if line.startswith("GTE:")]
    end = folded(screen.lines)
    for message in messages(tmp_path / "out" / "run.log"):
        assert folded([message]) in end


@pytest.mark.parametrize("columns", [40, 24])
def test_a_bar_without_room_leaves_out_and_never_wraps(columns: int):
    console = Console(file=io.StringIO(), force_terminal=True, width=columns, color_system=None)
    bar = _Bar("pretrain", console)
    bar.add_task("pretrain", total=123_456_789, completed=98_765_432, rate="1,234,567 rows/s")
    bar.notes = ["GTE: play_time +12 ± 3 %", "click -3.4 ± 0.6 %"]
    console.print(*bar.get_renderables())
    line, notes = console.file.getvalue().splitlines()
    assert line.rstrip() == {
        40: "pretrain  98765432/123456789 -:--:--", 24: " 98765432/123456789",
    }[columns]  # fmt: skip
    assert notes == {40: "GTE: play_time +12 ± 3 %  …", 24: "GTE: play_time +12 ± 3 %"}[columns]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (25, "ab +1 %  cd +2 %  ef +3 %"),
        (24, "ab +1 %  cd +2 %  …"),
        (16, "ab +1 %  cd +2 %"),
        (15, "ab +1 %  …"),
        (6, ""),
    ],
)
def test_notes_without_room_are_dropped_whole(width: int, line: str):
    assert fitted(["ab +1 %", "cd +2 %", "ef +3 %"], width) == line


def test_a_wide_name_counts_its_columns():
    assert fitted(["播放 +1 %", "b"], 8) == ""
    assert fitted(["播放 +1 %", "b and more"], 11) == "播放 +1 %"
    assert fitted(["播放 +1 %", "b and more"], 12) == "播放 +1 %  …"


def test_quiet_shows_no_bar(small_config: Callable[..., Path], small_run: Path, tmp_path: Path):
    moments, screen = shown(small_config(), tmp_path / "out", 80, "--quiet")
    end = "\n".join(screen.lines)
    assert "━" not in str(moments)
    assert "[loop]" not in end and "GTE:" not in end
    assert "duplicate_rows" in end


def test_verbose_shows_a_bar_too(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    moments, screen = shown(small_config(), tmp_path / "out", 80, "--verbose")
    assert re.search(r"loop ━", str(moments))
    assert any(DETAIL.match(line) for line in screen.lines)
    assert "━" not in "".join(screen.lines)


def test_no_color_draws_a_bar_without_colours(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    command = [*RUN, str(small_config()), "--out", str(tmp_path / "out")]
    text = on_a_terminal(command, NO_COLOR="1")
    assert "━" in text
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m|\x1b\[[0-9;]*9[0-7]m", text)


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    command = [*RUN, str(small_config()), "--out", str(tmp_path / "out")]
    text = on_a_terminal(command, TERM="dumb").replace("\r\n", "\n")
    assert not CONTROL.search(text)
    assert "━" not in text
    assert [line for line in text.splitlines() if line in messages(tmp_path / "out" / "run.log")]


def test_stderr_in_a_file_has_plain_lines_and_the_terminal_the_result_only(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path
):
    command = [*RUN, str(small_config()), "--out", str(tmp_path / "out")]
    text = on_a_terminal(command, stderr=tmp_path / "err").replace("\r\n", "\n")
    assert "━" not in text and "[loop]" not in text and "[2K" not in text
    assert "truth (GTE)" in text
    assert (tmp_path / "err").read_text().splitlines() == messages(tmp_path / "out" / "run.log")


@pytest.mark.parametrize("options", [[], ["--verbose"], ["--quiet"]])
def test_redirected_output_has_no_control_characters(
    small_config: Callable[..., Path], small_run: Path, tmp_path: Path, options: list[str]
):
    command = [*RUN, str(small_config()), "--out", str(tmp_path / "out"), *options]
    done = processes.run(command, capture_output=True, text=True, check=True)
    assert not CONTROL.search(done.stderr + done.stdout)
    if options == ["--quiet"]:
        assert done.stderr == ""
    else:
        shown = messages(tmp_path / "out" / "run.log", with_details=bool(options))
        assert done.stderr.splitlines() == shown
        assert re.search(r"\[loop\] step 10: so far, GTE: play_time [-+].* %; click ", done.stderr)
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 80  # the last line is the folder


def test_plain_lines_come_now_and_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, logger="realdataexp")
    with PhaseProgress("loop", 100, "steps") as shown:
        for _ in range(100):
            now[0] += 0.25
            shown.advance(1)
    assert [record.getMessage() for record in caplog.records] == [
        "[loop] 40 of 100 steps, 4 steps/s, 15 s left",
        "[loop] 80 of 100 steps, 4 steps/s, 5 s left",
    ]


def test_a_line_tells_the_effects_and_asks_for_them_only_then(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    now, asked = [0.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    caplog.set_level(logging.INFO, logger="realdataexp")

    def notes() -> list[str]:
        asked.append(now[0])
        return ["GTE: a +1.2 ± 0.3 %", "b -4 ± 2 %"]

    with PhaseProgress("loop", 8000, "steps") as shown:
        shown.skip(7900)  # by an earlier process: nothing is known of its speed
        for _ in range(60):
            now[0] += 4.0
            shown.advance(1, notes)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == (
        "[loop] 7,903 of 8,000 steps, 0.25 steps/s, 6 min left; GTE: a +1.2 ± 0.3 %; b -4 ± 2 %"
    )
    assert asked == [12.0 * i for i in range(1, 21)]  # every third step: 10 s apart at least
    assert len(lines) == len(asked)


def totals(design: str, *rows: tuple[int, str, str, int, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [(design, world, arm, label, n, total) for world, arm, label, n, total in rows],
        schema=TOTALS_SCHEMA,
        orient="row",
    )


def test_the_effect_of_a_design_is_per_visit_and_of_the_truth_in_total():
    one = [(0, "T", "a", 3, 330.0), (0, "C", "a", 6, 600.0)]
    assert effects_so_far(totals("pooling", *one)) == ["pooling: a +10 %"]
    assert effects_so_far(totals("global", *one)) == ["GTE: a -45 %"]
    both = pl.concat([totals("pooling", *one), totals("global", *one)])
    assert effects_so_far(both) == ["GTE: a -45 %"]


def test_an_effect_has_as_many_digits_as_its_error():
    def worlds(label: str, *treated: float) -> list[tuple[int, str, str, int, float]]:
        controls = [(i, "C", label, 1, 100.0) for i in range(len(treated))]
        return controls + [(i, "T", label, 1, x) for i, x in enumerate(treated)]

    rows = [*worlds("a", 101.0, 101.4), *worlds("b", 90.0, 70.0), *worlds("c", 100.0, 100.0)]
    assert effects_so_far(totals("global", *rows)) == [
        "GTE: a +1.2 ± 0.2 %", "b -20 ± 10 %", "c +0 %",
    ]  # fmt: skip


def test_nothing_is_said_before_there_is_something_to_compare():
    assert effects_so_far(totals("pooling")) == []
    assert effects_so_far(totals("pooling", (0, "T", "a", 3, 330.0))) == []
    no_clicks = [(0, "T", "a", 3, 1.0), (0, "C", "a", 3, 0.0)]
    assert effects_so_far(totals("pooling", *no_clicks)) == []


def test_looking_at_the_effects_changes_no_result(
    small_settings: Callable[..., dict], small_run: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
):  # fmt: skip
    from realdataexp import api

    caplog.set_level(logging.INFO, logger="realdataexp")
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)  # a look after every step
    result = api.run(small_settings(), out=tmp_path / "run")
    steps = [r.getMessage() for r in caplog.records if " of 10 steps, " in r.getMessage()]
    assert len(steps) == 9 and all("; GTE: play_time" in line for line in steps)
    for name in ("outcomes", "metrics", "estimates", "units"):
        file = f"{name}.parquet"
        assert (tmp_path / "run" / file).read_bytes() == (small_run / file).read_bytes()
    gte = result.summary["gte_results"]
    said = [r.getMessage() for r in caplog.records if "step 10: so far" in r.getMessage()]
    found = re.findall(r"(\w+) ([-+]\d+) ±", said[0])
    assert [(x, int(n)) for x, n in found] == [
        (x, round(gte[f"GTE_{x}_relative"])) for x in ("play_time", "click")
    ]


def test_log_lines_follow_stderr_where_it_goes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    logger = logging.getLogger("realdataexp")
    monkeypatch.setattr(logger, "handlers", [])
    monkeypatch.setattr(logger, "level", logger.level)
    terminal.log_lines("INFO")

    class Elsewhere:
        text = ""

        def write(self, text: str) -> None:
            self.text += text

        def flush(self) -> None: ...

    elsewhere = Elsewhere()
    logger.info("here")
    with monkeypatch.context() as patch:
        patch.setattr("sys.stderr", elsewhere)
        logger.info("there")
    assert (capsys.readouterr().err, elsewhere.text) == ("here\n", "there\n")
