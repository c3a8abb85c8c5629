"""A file that should be a config can be anything: one clear line, at once."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from pathlib import Path

import pytest

from realdataexp.config import load_config, yaml_text
from realdataexp.errors import InputError

_LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
_MERGES = "a0: &a0 {x0: 1, y0: 1}\n" + "".join(
    f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], x{i}: 1}}\n" for i in range(1, 12)
)


def fault(source: str | Path, *overrides: str) -> str:
    """The one line with which a config is refused."""
    with pytest.raises(InputError) as caught:
        load_config(source, overrides)
    (line,) = caught.value.faults
    assert len(line) < 400
    return line


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (_LAUGHS, "more than 100,000 values"),
        (_MERGES, "merge keys (<<) bring in too many"),
        ("a: &a [*a]", "within itself"),
        ("a: &a {b: {c: *a}}", "within itself"),
        ("a: [" + ", ".join(["*x"] * 2_000) + "]\n", "undefined alias"),
        ("x: &x 1\na: [" + ", ".join(["*x"] * 2_000) + "]\n", "more than 1,000 aliases"),
        ("a: " + "[" * 10_000, "line 1, column 34: nested more than 30 levels"),
        ("a: " + "{a: " * 10_000, "nested more than 30 levels"),
        ("- " * 10_000, "nested more than 30 levels"),
        ("a: " + "x" * 10_000_000, "larger than 0.5 MB"),
        ("seed: " + "9" * 5_000, "line 1, column 7: a number of 5,000 characters"),
        ("seed: 0x" + "f" * 300, "seed: a whole number of 1200 bits: use at most 64"),
        ("seed: -9223372036854775809", "seed: a whole number of 64 bits"),
        ("seed: 2026-13-45", "month must be in 1..12"),
        ("seed: 1\n---\nseed: 2\n", "single document in the stream but found another document"),
        ("seed: 1\n\tmode: global", "line 2, column 1: not YAML"),
        ("1: x", "key 1 is no text"),
        ("labels: [{true: x}]", "labels.0: the key True is no text"),
        ("? [a]\n: b", "line 1, column 3: not YAML: "),
        ("a: !!set {b}", "could not determine a constructor"),
        ("a: !!binary aGk=", "could not determine a constructor"),
        ("seed: 1\nmode: global\nseed: 2", "line 3: key seed is given twice (first in line 1)"),
        ("labels: [{a: 1,\n  'a': 2}]", "line 2: key a is given twice (first in line 1)"),
        ("experiment: {aa: yes}", "line 1, column 18: yes may be meant as true or"),
        ("no: 1", "line 1, column 1: no may be meant"),
        ("feature: {categorical: [On]}", "On may be meant as true or false"),
        ("simulation: {n_steps: 010}", "010 may be meant as octal or decimal"),
        ("seed: 1:30", "1:30 may be meant as a time or as a number to base 60"),
        ("seed: 190:20:30.15", "may be meant as a time"),
        ("seed: 1\nmode: \x1b[2J", r"line 2: not YAML: the character '\x1b' is not allowed"),
        ("seed: 1\nmode: \x00", r"line 2: not YAML: the character '\x00' is not allowed"),
    ],
    ids=itertools.count(),
)
def test_a_text_that_is_no_config_is_one_line(text: str, said: str, tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_config(path)
    line = caught.value.faults[0]
    assert line.startswith(f"{path}: ")
    assert said in line


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ("seed: 1".encode("utf-16"), "in UTF-16, not UTF-8: save it as UTF-8"),
        (b"seed: 1\nmode: \xff", "line 2: not a text file in UTF-8"),
        (b"PAR1\x00\x00" * 100, r"the character '\x00' is not allowed"),
    ],
)
def test_bytes_that_are_no_text_are_one_line(data: bytes, said: str, tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_bytes(data)
    assert said in fault(path)


def test_a_byte_order_mark_of_utf_8_is_no_part_of_the_text(tmp_path: Path):
    path = tmp_path / "x.yaml"
    path.write_text(load_config("demo").to_yaml(), encoding="utf-8-sig")
    assert load_config(path) == load_config("demo")


@pytest.mark.skipif(os.name != "posix", reason="such files are POSIX's")
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(yaml_text, "_PIPE_SECONDS", 0.01)
    os.mkfifo(tmp_path / "pipe")
    assert "a pipe into which nobody writes" in fault(tmp_path / "pipe")
    assert "cannot be read: Is a directory" in fault(tmp_path)
    assert "is a device, not a file" in fault("/dev/zero")
    assert "is a device, not a file" in fault("/dev/null")
    assert "CONFIG is empty" in fault("")
    assert "no such config file" in fault("-")
    assert "cannot be read" in fault("x" * 5_000)
    assert "cannot be read: embedded null byte" in fault("a\0b")


@pytest.mark.skipif(os.name != "posix", reason="pipes are POSIX's")
def test_a_config_may_come_through_a_pipe_as_far_as_it_is_one(tmp_path: Path):
    def through_a_pipe(data: bytes) -> str:
        reader, writer = os.pipe()

        def write() -> None:
            with open(writer, "wb") as file, contextlib.suppress(BrokenPipeError):
                file.write(data)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            return yaml_text.read_text(Path(f"/dev/fd/{reader}"), "pipe")
        finally:
            os.close(reader)
            thread.join()

    text = load_config("demo").to_yaml()
    assert through_a_pipe(text.encode()) == text
    with pytest.raises(InputError, match="larger than"):
        through_a_pipe(b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seed=" + "[" * 10_000, "nested more than 30 levels"),
        ("seed=&a [*a]", "within itself"),
        ("seed=" + "9" * 5_000, "a number of 5,000 characters"),
        ("seed={1: 2}", "--set seed: the key 1 is no text"),
        ("seed=1:30", "1:30 may be meant"),
        (".".join("a" * 10_000) + "=1", "a path of 10,000 keys"),
        (f"labels.{'9' * 5_000}.alpha_T=1", "the items are 0 to 1, play_time"),
        (f"labels.{'x' * 100_000}.alpha_T=1", "the items are 0 to 1, play_time"),
        ("x" * 100_000, "must be key.sub=value"),
        ("", "--set : must be key.sub=value"),
        ("=", "must be key.sub=value"),
        (f"mode={'x' * 100_000}", "unknown mode"),
        (f"{'x' * 100_000}=1", "unknown key"),
    ],
    ids=itertools.count(),
)
def test_an_override_that_is_none_is_one_line(override: str, said: str):
    with pytest.raises(InputError) as caught:
        load_config("demo", [override])
    (line,) = caught.value.faults
    assert said in line
    assert len(line) < 600


def test_a_text_that_yaml_would_read_as_something_else_comes_back_as_it_was():
    texts = ["no", "on", "1:30", "010", "1e-3", "null", "2022-04-22", "0x1f", "~", "=", "<<"]
    read, faults = yaml_text.parse_yaml(yaml_text.to_yaml({"texts": texts}), "x")
    assert (read, faults) == ({"texts": texts}, [])


def test_merge_keys_and_aliases_are_written_out():
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: [*a, *a]\n"
    read, faults = yaml_text.parse_yaml(text, "x")
    assert read == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1, "y": 2}] * 2}
    assert faults == []
    assert read["c"][0] is not read["c"][1]
