"""VK-LSVD: four weeks of its subsample of 1 % of the users. No checksum is known."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from realdataexp.data.archives.base import Archive, File, Tables, some_users
from realdataexp.data.parquet import scan_parquet

_WEEKS = tuple(f"subsamples/ur0.01/train/week_{i:02}.parquet" for i in range(4))
_USERS, _ITEMS = (f"metadata/{x}_metadata.parquet" for x in ("users", "items"))


def write(folder: Path, out: Path, every: int) -> None:
    """Write log, users and items. The time is a row's place: by weeks, and by rows in a week."""
    weeks = [
        scan_parquet(folder / week)
        .with_row_index("row")
        .with_columns(time=pl.col("row").cast(pl.Int64) + i * 10**10)
        .drop("row")
        for i, week in enumerate(_WEEKS)
    ]
    some_users(pl.concat(weeks), "user_id", every).sink_parquet(out / "log.parquet")
    log = scan_parquet(out / "log.parquet")
    for name, key, file in (("users", "user_id", _USERS), ("items", "item_id", _ITEMS)):
        kept = log.select(pl.col(key).unique()).collect(engine="streaming")[key]
        table = scan_parquet(folder / file).filter(pl.col(key).is_in(kept.implode()))
        table.sink_parquet(out / f"{name}.parquet")


ARCHIVE = Archive(
    name="VK-LSVD",
    home="https://huggingface.co/datasets/deepvk/VK-LSVD",
    licence="Apache 2.0",
    base="https://huggingface.co/datasets/deepvk/VK-LSVD/resolve/main",
    files=tuple(File(path) for path in (*_WEEKS, _USERS, _ITEMS)),
    checked_by="",
    holds=_WEEKS[0],
    unpacked_bytes=1_500_000_000,
    tables=Tables(write, every=20),
    run="run vk-lsvd --data {}",
)
