"""The Open Bandit Dataset (Saito et al., arXiv 2008.07146): the random policy, campaign "all".

Its authors publish no checksum. This one others recorded who used the archive of 412,931,917 bytes,
independently of each other.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from realdataexp.data.archives.base import Archive, File, Tables, some_users

_FEATURES = [f"user_feature_{i}" for i in range(4)]


def write(folder: Path, out: Path, every: int) -> None:
    """Write log and users. A user is everybody with the same four features: no row says more."""
    columns = ["user", "item_id", "timestamp", "click", "propensity_score"]
    text = dict.fromkeys(_FEATURES, pl.String)
    log = pl.scan_csv(folder / "random/all/all.csv", schema_overrides=text, glob=False)
    log = log.with_columns(pl.col(_FEATURES).fill_null(""))
    log = log.with_columns(user=pl.concat_str(_FEATURES, separator="|"))
    log = some_users(log, "user", every)
    log.select(columns).sink_parquet(out / "log.parquet")
    users = log.select("user", *_FEATURES).unique().collect(engine="streaming")
    users.sort("user").write_parquet(out / "users.parquet")


ARCHIVE = Archive(
    name="Open Bandit",
    home="https://research.zozo.com/data.html",
    licence="CC BY 4.0",
    base="https://research.zozo.com/data_release",
    files=(
        File(
            "open_bandit_dataset.zip",
            "sha256:e8ec18196582a5937381a1776382ca940689b90a18d2dcd1fb635be6df614d78",
        ),
    ),
    checked_by="others who used it (its authors state none)",
    holds="random/all/all.csv",
    members=("*/random/all/*",),  # a fifteenth of its 11 GB
    unpacked_bytes=900_000_000,
    tables=Tables(write, every=1),
    run="run open-bandit --data {}",
)
