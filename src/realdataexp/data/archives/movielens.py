"""MovieLens (Harper and Konstan, 2015), from GroupLens, which keeps a file with the md5 of each.

The small one may change, so its md5 is read anew; those of the others are as their files say.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from realdataexp.data.archives.base import Archive, File, Tables, some_users


def write(folder: Path, out: Path, every: int) -> None:
    """Write the log, with a second outcome, and the films, with genres as lists and their year."""
    log = some_users(pl.scan_csv(folder / "ratings.csv", glob=False), "userId", every)
    log.with_columns(liked=pl.col("rating") >= 4).sink_parquet(out / "log.parquet")
    pl.read_csv(folder / "movies.csv", glob=False).select(
        "movieId",
        genres=pl.col("genres").str.split("|"),
        year=pl.col("title").str.extract(r"\((\d{4})\)\s*$").cast(pl.Int32),
    ).write_parquet(out / "movies.parquet")


def _version(name: str, checksum: str, unpacked_bytes: int) -> Archive:
    return Archive(
        name=name,
        home="https://grouplens.org/datasets/movielens/",
        licence="research only, see its README",
        base="https://files.grouplens.org/datasets/movielens",
        files=(File(f"{name}.zip", checksum),),
        checked_by="GroupLens",
        holds="ratings.csv",
        members=("*/ratings.csv", "*/movies.csv", "*/README*"),
        unpacked_bytes=unpacked_bytes,
        tables=Tables(write, every=1),
        run="run movielens --data {}",
    )


SMALL = _version("ml-latest-small", "ml-latest-small.zip.md5", 5_000_000)
TWENTY_FIVE_M = _version("ml-25m", "md5:6b51fb2759a8657d3bfcbfc42b592ada", 1_000_000_000)
THIRTY_TWO_M = _version("ml-32m", "md5:d472be332d4daa821edc399621853b57", 1_300_000_000)
