"""Files of histories and items: what each becomes, and one line on whatever is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from realdataexp.errors import InputError
from realdataexp.sequences.formats import SequenceData, open_histories, open_split
from realdataexp.sequences.histories import Histories, histories_of, time_split

LINES = "u1 a b c d\nu2 b c a\n"
WANTED = {"u1": ["a", "b", "c", "d"], "u2": ["b", "c", "a"]}
ROWS = [
    ("u1", "b", 20), ("u2", "c", 7), ("u1", "a", 10), ("u2", "b", 6), ("u1", "d", 40),
    ("u1", "c", 30), ("u2", "a", 8),
]  # fmt: skip


def _named(histories: Histories) -> dict[str, list[str]]:
    starts, ends = histories.offset_U1[:-1], histories.offset_U1[1:]
    return {
        user: [histories.item_names[v] for v in histories.item_N[start:end]]
        for user, start, end in zip(histories.user_names, starts, ends, strict=True)
    }


def _open(path: Path, **options: Any) -> dict[str, list[str]]:
    return _named(open_histories(SequenceData(path=str(path), **options))[0])


def test_all_formats_of_one_log_are_the_same_histories(tmp_path: Path) -> None:
    table = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    (tmp_path / "s3rec.txt").write_text(LINES)
    table.write_csv(tmp_path / "log.csv")
    table.write_csv(tmp_path / "log.tsv", separator="\t")
    table.write_parquet(tmp_path / "log.parquet")
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    rows = "".join(f"{u}\t{i}\t{t}\n" for u, i, t in ROWS)
    (tmp_path / "log.inter").write_text(head + rows)
    for name in ("s3rec.txt", "log.csv", "log.tsv", "log.parquet", "log.inter"):
        assert _open(tmp_path / name) == WANTED, name


def test_other_columns_and_dates_as_times(tmp_path: Path) -> None:
    table = pl.DataFrame(ROWS, schema=["who", "what", "when"], orient="row")
    table = table.with_columns(pl.from_epoch("when", time_unit="d").cast(pl.String))
    table.write_csv(tmp_path / "log.csv")
    columns = {"user": "who", "item": "what", "time": "when"}
    assert _open(tmp_path / "log.csv", columns=columns) == WANTED


def test_a_folder_as_p5_and_gram_have_it(tmp_path: Path) -> None:
    """P5's sequential_data.txt, here or in raw, with its table of items beside it."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/sequential_data.txt").write_text(LINES)
    (tmp_path / "items.tsv").write_text("item\ttext\nc\tsee\na\tay\nz\tnone\n")
    histories, items = open_histories(SequenceData(path=str(tmp_path)))
    assert _named(histories) == WANTED
    text = dict(zip(histories.item_names, items.texts("text"), strict=True))
    assert text == {"a": "ay", "b": "", "c": "see", "d": ""}


def test_rows_of_the_same_time_stay_in_their_order() -> None:
    rows = pl.DataFrame({"user": ["u"] * 4, "item": list("cabd"), "time": [1.0, 1, 1, 0]})
    assert _named(histories_of(rows)) == {"u": ["d", "c", "a", "b"]}


def test_items_numbers_follow_neither_their_names_nor_the_rows() -> None:
    names = [f"{v:04}" for v in range(500)]
    rows = pl.DataFrame({"user": ["u"] * 500, "item": names})
    histories = histories_of(rows)
    assert abs(np.corrcoef(histories.item_N, np.arange(500))[0, 1]) < 0.2  # sd .045
    again = histories_of(rows.reverse())
    assert list(again.item_names) == list(histories.item_names)


def test_the_split_by_time_equals_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    user_names, item_names = ([f"{x}{v}" for v in range(30)] for x in "ui")
    rows = pl.DataFrame(
        {
            "user": [user_names[u] for u in rng.integers(0, 30, 400)],
            "item": [item_names[v] for v in rng.integers(0, 30, 400)],
            "time": rng.integers(0, 150, 400).astype(float),
        }
    )
    histories = histories_of(rows)
    split = time_split(histories, 0.2)
    time_N = histories.time_N
    assert time_N is not None
    ordered = np.sort(time_N)
    start_1, start_2 = (ordered[int(np.ceil(399 * share))] for share in (0.6, 0.8))
    wanted: dict[str, list[tuple[int, int]]] = {"validation": [], "test": []}
    for u in range(histories.n_users):
        places = range(int(histories.offset_U1[u]), int(histories.offset_U1[u + 1]))
        assert [n for n in places if split.is_train_N[n]] == [
            n for n in places if time_N[n] < start_1
        ]
        for name, start, end in (("validation", start_1, start_2), ("test", start_2, np.inf)):
            within = [n for n in places if start <= time_N[n] < end]
            if within and time_N[places[0]] < start:
                wanted[name].append((u, within[0]))
    for name, questions in (("validation", split.validation), ("test", split.test)):
        found = list(zip(questions.user_Q.tolist(), questions.place_Q.tolist(), strict=True))
        assert found == wanted[name]
    assert split.past_BT(split.test).max() < 30


# --- what is wrong -------------------------------------------------------------------------------

_INTER = "user_id:token\titem_id:token\ttimestamp:float\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("log.xyz", LINES, "dataset.format = 'auto' knows .txt, .inter, .parquet, .csv, .tsv only"),
        ("log.txt", "", "has no interactions"),
        ("log.txt", "\n  \n", "has no interactions"),
        ("log.txt", "u1 a b\nu2\n", "row 2: user 'u2' has no items"),
        ("log.txt", "u1 a b\nu2 a\nu1 c\n", "row 3: user 'u1' has row 1 too"),
        ("log.txt", b"u1 a \xff\n", "cannot be read as UTF-8"),
        ("log.txt", "u1 a\nu2 b\n", "no user has 3 items or more"),
        ("log.csv", "", "log.csv"),
        ("log.csv", "user,item,time\n", "has no interactions"),
        ("log.csv", "user,thing,time\nu,a,1\n", "item"),
        ("log.csv", "user,item,time\nu,a,1\nu,b,soon\n", "column 'time': 'soon' is no time"),
        ("log.csv", "user,item,time\nu,a,1\nu,b,\n", "column 'time' has no time in 1 rows"),
        ("log.csv", "user,item,time\nu,a,1\n,b,2\n", "column 'user': no id"),
        ("log.inter", "user_id\titem_id\n1\t2\n", "not written as RecBole's name:type"),
        ("log.inter", _INTER + "u\ta\tsoon\nu\tb\t1\n", "column 'timestamp': 'soon' is no time"),
        ("log.parquet", "user item", "cannot be read as Parquet"),
    ],
)
def test_wrong_histories_are_one_line_that_names_the_file(
    tmp_path: Path, name: str, text: str | bytes, said: str
) -> None:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        open_split(SequenceData(path=str(path)))
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "read", "said"),
    [
        ("item,codes\n8,1\n9,2\n", None, "has none of the histories' items, such as"),
        ("item,codes\na,1\na,2\n", None, "item 'a' (one of 1) has two rows"),
        ("item,codes\na,1\nb,2\nc,3\n", "codes", "item 'd' (one of 1) has no codes"),
        ("item,codes\na,1\nb,2\nc,3\nd,\n", "codes", "item 'd' (one of 1) has no codes"),
        ("item,code\na,1\n", "codes", "no column 'codes'; did you mean code?"),
        ("item,vector\na,1\n", "vectors", "must hold lists of numbers, not String"),
    ],
)
def test_wrong_tables_of_items_are_one_line(
    tmp_path: Path, text: str, read: str | None, said: str
) -> None:
    (tmp_path / "histories.txt").write_text(LINES)
    (tmp_path / "items.csv").write_text(text)
    with pytest.raises(InputError) as error:
        _, items = open_histories(SequenceData(path=str(tmp_path)))
        getattr(items, read or "")("vector" if read == "vectors" else "codes")
    assert "\n" not in str(error.value)
    assert "items.csv" in str(error.value)
    assert said in str(error.value)


def test_vectors_of_a_table_that_are_no_numbers_or_not_as_long_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "histories.txt").write_text(LINES)
    for vectors, said in (
        ([[1.0, 2.0], [1.0, np.nan], [0.0, 1.0], [1.0, 1.0]], "item 'b' (one of 1) has a number"),
        ([[1.0, 2.0], [1.0], [0.0, 1.0], [1.0, 1.0]], "has not"),
        ([[1.0, 2.0], None, [0.0, 1.0], [1.0, 1.0]], "item 'b' (one of 1) has no vector"),
    ):
        table = pl.DataFrame({"item": list("abcd"), "vector": vectors})
        table.write_parquet(tmp_path / "items.parquet")
        _, items = open_histories(SequenceData(path=str(tmp_path)))
        with pytest.raises(InputError) as error:
            items.vectors("vector")
        assert said in str(error.value)


def test_a_folder_with_no_history_or_two_asks_for_a_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no file of histories.*dataset\.file"):
        _open(tmp_path)
    for name in ("histories.txt", "interactions.csv"):
        (tmp_path / name).write_text(LINES)
    with pytest.raises(InputError, match=r"name one in dataset\.file"):
        _open(tmp_path)
    assert _open(tmp_path, file="histories.txt") == WANTED
    with pytest.raises(InputError, match="no such file"):
        _open(tmp_path, file="other.txt")


def test_a_split_by_time_without_times_or_without_questions_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_text(LINES)
    with pytest.raises(InputError, match="the histories have no times; use leave_one_out"):
        open_split(SequenceData(path=str(tmp_path / "log.txt"), split="time"))
    (tmp_path / "log.csv").write_text("user,item,time\nu,a,1\nv,b,2\n")
    with pytest.raises(InputError, match="0 users have a validation and 0 a test question"):
        open_split(SequenceData(path=str(tmp_path / "log.csv"), split="time"))
