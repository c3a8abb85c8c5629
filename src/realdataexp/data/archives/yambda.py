"""Yambda, the version of 50 million events, at a revision that others pinned.

The sha256 are as they recorded them, those of the plays (369,110,332 bytes) independently of each
other.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from realdataexp.data.archives.base import Archive, File, Tables, some_users
from realdataexp.data.parquet import scan_parquet

_REVISION = "dd6f3a19eef5866e346c3270e098baa641a44948"
_PLAYS, _ARTISTS = "flat/50m/listens.parquet", "artist_item_mapping.parquet"


def write(folder: Path, out: Path, every: int) -> None:
    """Write the log, with the seconds that were played and whether it was half, and the tracks."""
    ratio = pl.col("played_ratio_pct").clip(upper_bound=100)
    seconds = ratio * pl.col("track_length_seconds") / 100
    plays = some_users(scan_parquet(folder / _PLAYS), "uid", every)
    plays.with_columns(seconds=seconds, played=ratio >= 50).sink_parquet(out / "log.parquet")
    items = scan_parquet(out / "log.parquet").group_by("item_id")
    length = items.agg(length=pl.col("track_length_seconds").first()).collect()
    artists = scan_parquet(folder / _ARTISTS)
    artists = artists.filter(pl.col("item_id").is_in(length["item_id"].implode()))
    of_item = artists.group_by("item_id").agg(artists=pl.col("artist_id").sort()).collect()
    length.join(of_item, on="item_id", how="left").sort("item_id").write_parquet(
        out / "items.parquet"
    )


ARCHIVE = Archive(
    name="Yambda",
    home="https://huggingface.co/datasets/yandex/yambda",
    licence="Apache 2.0",
    base=f"https://huggingface.co/datasets/yandex/yambda/resolve/{_REVISION}",
    files=(
        File(
            _PLAYS,
            "sha256:eed9cbd094af1e189507d2f8132a0dc9653b90e65480125c7cdccd601e0592d1",
        ),
        File(
            _ARTISTS,
            "sha256:cf1110aa2413ed70008ec9232d395660b2181ffda731002fb74da54e87b6f25d",
        ),
    ),
    checked_by="others who used it",
    holds=_PLAYS,
    unpacked_bytes=700_000_000,
    tables=Tables(write, every=100),
    run="run yambda --data {}",
)
