"""Files of histories and of items: which there are, and what each becomes.

- ``s3rec``: a line a user, ``user item item ...``, oldest first (S3-Rec, P5, GRAM);
- ``inter``: RecBole's table, separated by tabs, under a header ``user_id:token item_id:token ...``;
- ``table``: Parquet, CSV or TSV with columns of users, items and times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import Field, model_validator

from realdataexp.data.csv_files import require_columns, require_file
from realdataexp.data.table_files import TableFile, columns_of
from realdataexp.errors import InputError
from realdataexp.options import Options, PathText, Share, Text, changed_in
from realdataexp.sequences.histories import (
    Histories,
    Split,
    histories_of,
    leave_one_out,
    time_split,
)
from realdataexp.sequences.items import Items, aligned, no_items
from realdataexp.sequences.synthetic import SyntheticSequences, make_sequences

_FORMATS = {
    ".txt": "s3rec", ".inter": "inter", ".parquet": "table", ".csv": "table", ".tsv": "table",
}  # fmt: skip
_HISTORIES = (
    "*.inter", "histories.*", "interactions.*", "s3rec_*.txt", "sequential_data.txt",
    "user_sequence.txt",
)  # fmt: skip
_ITEMS = ("items.parquet", "items.csv", "items.tsv", "*.item")
_TABBED = (".tsv", ".inter", ".item")
_USUAL = {"inter": ("user_id", "item_id", "timestamp"), "table": ("user", "item", "time")}
_HELD_OUT = 0.1


class HistoryColumns(Options):
    """The columns of histories in a table."""

    user: Text | None = Field(None, description="null: user, in RecBole's tables user_id")
    item: Text | None = Field(None, description="null: item, in RecBole's tables item_id")
    time: Text | None = Field(None, description="null: time, in RecBole's tables timestamp")


class ItemFile(Options):
    """The table of items."""

    file: PathText | None = Field(
        None,
        description="in the folder of the histories: Parquet, CSV, TSV or RecBole's .item; null: "
        "items.parquet, items.csv, items.tsv or *.item there, where there is one",
    )
    item: Text | None = Field(
        None, description="its column of items, as the histories call them; null: the first"
    )


class SequenceData(Options):
    """Histories of users, and what is known of their items."""

    name: Literal["sequences"] = Field("sequences", description="always sequences")
    path: PathText | None = Field(None, description="folder of the histories, or their file")
    file: PathText | None = Field(
        None, description="the file of the histories in the folder; null: the one that looks so"
    )
    format: Literal["auto", "s3rec", "inter", "table"] = Field(
        "auto",
        description="s3rec: a line `user item item ...` a user; inter: RecBole's; table: Parquet, "
        "CSV or TSV; auto: by the file's suffix",
    )
    columns: HistoryColumns = Field(HistoryColumns(), description="columns of a table of histories")
    items: ItemFile = Field(ItemFile(), description="the table of items")
    synthetic: SyntheticSequences | None = Field(
        None, description="instead of files: histories made from a seed"
    )
    split: Literal["leave_one_out", "time"] = Field(
        "leave_one_out",
        description="leave_one_out: a user's last item tests, the one before validates; time: what "
        "came last over all users",
    )
    held_out: Share | None = Field(
        None,
        lt=0.5,
        description="share of the interactions, the latest, that the split by time tests on, and "
        "as many before them validate; null: 0.1",
    )

    @property
    def has_folder(self) -> bool:
        """Whether there are files, in a folder that the user names."""
        return self.synthetic is None

    @model_validator(mode="after")
    def _has_effect(self) -> SequenceData:
        if self.held_out is not None and self.split != "time":
            raise ValueError("held_out has no effect on split leave_one_out: leave it out")
        if self.synthetic is not None:
            if self.path is not None:
                raise ValueError("path has no effect beside synthetic: leave out one of the two")
            of_files = ("file", "format", "columns", "items")
            if unused := [x for x in of_files if x in changed_in(self)]:
                raise ValueError(f"{unused[0]} has no effect beside synthetic: leave it out")
        return self


def open_histories(options: SequenceData) -> tuple[Histories, Items]:
    """The histories and the table of their items.

    Raises:
        InputError: there are none, or something in the files is wrong.
    """
    if options.synthetic is not None:
        return make_sequences(options.synthetic)
    path = find_histories(options)
    histories = read_histories(path, options)
    return histories, read_items(path, options, histories)


def open_split(options: SequenceData) -> tuple[Split, Items]:
    """The histories, split as the options say, and the table of their items."""
    histories, items = open_histories(options)
    if options.split == "time":
        return time_split(histories, options.held_out or _HELD_OUT), items
    split = leave_one_out(histories)
    if not len(split.test):
        raise InputError(
            f"{items.source}: no user has 3 items or more, which split leave_one_out needs; "
            "use other data, or dataset.split = time"
        )
    return split, items


# --- finding files -------------------------------------------------------------------------------


def find_histories(options: SequenceData) -> Path:
    """The file of the histories."""
    if options.path is None:
        raise InputError("dataset.path = null: no data; pass --data DIR, or set dataset.synthetic")
    path = Path(options.path).expanduser()
    if options.file is not None:
        path = path / options.file
    if path.is_dir():
        patterns = (*_HISTORIES, f"{path.name}.txt")
        found = _only(path, ("", "raw"), patterns, "dataset.file")
        if found is None:
            raise InputError(
                f"{path}: has no file of histories, here or in raw ({', '.join(patterns)}); name "
                "it in dataset.file"
            )
        return found
    require_file(path)
    return path


def _only(path: Path, folders: tuple[str, ...], patterns: tuple[str, ...], key: str) -> Path | None:
    """The one file that matches; InputError where several do."""
    found = {x for at in folders for pattern in patterns for x in (path / at).glob(pattern)}
    if len(found) > 1:
        raise InputError(
            f"{path}: has {', '.join(sorted(x.name for x in found))}; name one in {key}"
        )
    return found.pop() if found else None


def _find_items(histories: Path, options: SequenceData) -> Path | None:
    """The file of the items: beside that of the histories, or in the data's folder."""
    folder = Path(options.path or "").expanduser()
    folder = folder if folder.is_dir() else histories.parent
    if options.items.file is not None:
        return folder / options.items.file
    return _only(folder, ("",), _ITEMS, "dataset.items.file")


# --- reading them --------------------------------------------------------------------------------


def read_histories(path: Path, options: SequenceData) -> Histories:
    """The histories in a file."""
    kind = _FORMATS.get(path.suffix) if options.format == "auto" else options.format
    if kind is None:
        raise InputError(
            f"{path}: dataset.format = 'auto' knows {', '.join(_FORMATS)} only; name the format"
        )
    rows = _lines(path) if kind == "s3rec" else _table_rows(path, kind, options.columns)
    if not rows.height:
        raise InputError(f"{path}: has no interactions; use another file")
    return histories_of(rows)


def _lines(path: Path) -> pl.DataFrame:
    """Users and items of a file with a line a user."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    lines = [line.split() for line in text.splitlines()]
    row_of: dict[str, int] = {}
    for row, line in enumerate(lines, 1):
        if len(line) == 1:
            raise InputError(
                f"{path}, row {row}: user {line[0]!r} has no items; remove the row, or name "
                "another dataset.format"
            )
        if line and row_of.setdefault(line[0], row) != row:
            raise InputError(
                f"{path}, row {row}: user {line[0]!r} has row {row_of[line[0]]} too; join them"
            )
    table = pl.DataFrame(
        {"user": [x[0] for x in lines if x], "item": [x[1:] for x in lines if x]},
        schema={"user": pl.String, "item": pl.List(pl.String)},
    )
    return table.explode("item")


def _table_rows(path: Path, kind: str, columns: HistoryColumns) -> pl.DataFrame:
    """Users, items and times of a table."""
    usual = _USUAL[kind]
    user, item, time = (
        getattr(columns, name) or usual[i] for i, name in enumerate(("user", "item", "time"))
    )
    table = read_table(path, (user, item, time))
    times = table.times(time)
    if times.null_count():
        raise InputError(
            f"{path}: column {time!r} has no time in {times.null_count():,} rows; add the times or "
            "remove the rows"
        )
    if isinstance(times.dtype, pl.Datetime):
        is_fine = times.dtype.time_unit == "ns"
        times = times.dt.epoch("ns" if is_fine else "us") / (1e9 if is_fine else 1e6)
    names = {"user": table.ids(user), "item": table.ids(item)}
    return pl.DataFrame(
        {**{key: x.cast(pl.String) for key, x in names.items()}, "time": times.cast(pl.Float64)}
    )


def read_items(histories_file: Path, options: SequenceData, histories: Histories) -> Items:
    """The table of the histories' items; one without columns where there is no file."""
    path = _find_items(histories_file, options)
    if path is None:
        return no_items(histories.item_names, str(histories_file))
    table = read_table(path, None if options.items.item is None else (options.items.item,))
    ids = table.ids(options.items.item or table.frame.columns[0])
    return aligned(histories.item_names, ids, table.frame, str(path))


def read_table(path: Path, needed: tuple[str, ...] | None) -> TableFile:
    """A table with all its columns; those needed must be there."""
    frame = None
    if path.suffix in _TABBED:
        frame = _tabbed(path)
        columns = tuple(frame.columns)
    else:
        columns = columns_of(path)
    require_columns(path, columns, needed or ())
    return TableFile(path, columns, frame)


def _tabbed(path: Path) -> pl.DataFrame:
    """A table separated by tabs, as texts; of a RecBole header the types are left out."""
    require_file(path)
    try:
        frame = pl.read_csv(path, separator="\t", quote_char=None, infer_schema=False, glob=False)
    except (OSError, pl.exceptions.PolarsError) as error:
        said = str(error).splitlines()[0]
        raise InputError(f"{path}: cannot be read as a table with tabs: {said}") from error
    if path.suffix == ".tsv":
        return frame
    if untyped := [name for name in frame.columns if ":" not in name]:
        raise InputError(
            f"{path}: row 1 (the header) has {untyped[0]!r}, which is not written as RecBole's "
            "name:type, such as user_id:token; mend it"
        )
    return frame.rename({name: name.rpartition(":")[0] for name in frame.columns})
