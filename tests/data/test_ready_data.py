"""Public data sets map as docs/ready-data.md says, on small files of exactly their columns."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from realdataexp import cli
from realdataexp.report.files import read_run

PAGE = (Path(__file__).parents[2] / "docs" / "ready-data.md").read_text(encoding="utf-8")
SECTIONS = {  # what a page's section has: its Python, and its command
    re.search(r"realdataexp run ([\w-]+)", text)[1]: text  # type: ignore[index]
    for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
}
N_USERS, N_ITEMS, N_ROWS = 24, 30, 20  # rows of each user
SMALL = [
    "simulation.n_steps=2", "experiment.replications=2", "experiment.starts=1",
    "experiment.designs=[pooling]", "pretrain.batch_size=16", "logging.pictures=false",
    "simulation.n_candidate=4", "simulation.min_candidates=2",
]  # fmt: skip

RNG = np.random.default_rng(0)


def views() -> pl.DataFrame:
    """Who saw what, in order: user, item, row, and a number."""
    items = [RNG.permutation(N_ITEMS)[:N_ROWS] for _ in range(N_USERS)]
    return pl.DataFrame(
        {
            "user": np.repeat(np.arange(N_USERS), N_ROWS),
            "item": np.concatenate(items),
            "x": RNG.integers(1, 60, N_USERS * N_ROWS),
        }
    ).with_row_index("row")


def kuairec(folder: Path) -> None:
    """KuaiRec 2.0; some rows of small_matrix.csv have no time."""
    place = folder / "data/KuaiRec/data"
    place.mkdir(parents=True)
    views().select(
        user_id="user", video_id="item", play_duration=pl.col("x") * 1000,
        video_duration=pl.lit(9800), time=pl.lit("2020-07-05 05:27:48.378"), date=pl.lit(20200705),
        timestamp=pl.when(pl.col("row") > 0).then(1593898068.378 + pl.col("row")),
        watch_ratio=pl.col("x") / 9.8,
    ).write_csv(place / "small_matrix.csv")  # fmt: skip
    lines = [f'{i},"[{i % 3}, {3 + i % 2}]"' for i in range(N_ITEMS)]
    (place / "item_categories.csv").write_text("\n".join(["video_id,feat", *lines]) + "\n")
    pl.DataFrame({"user_id": range(N_USERS)}).with_columns(
        user_active_degree=pl.lit("full_active"), is_lowactive_period=0, is_live_streamer=0,
        is_video_author=pl.col("user_id") % 2, follow_user_num=5, fans_user_num=pl.col("user_id"),
        friend_user_num=0, register_days=107,
    ).write_csv(place / "user_features.csv")  # fmt: skip


def open_bandit(folder: Path) -> None:
    """The random policy's campaign "all": its first column has no name, a user feature is empty."""
    place = folder / "data/open-bandit/random/all"
    place.mkdir(parents=True)
    table = views()
    user = pl.col("user").cast(pl.String)
    log = table.select(
        pl.col("row").alias(""),
        timestamp=pl.lit("2019-11-24 00:00:") + (pl.col("row") % 60).cast(pl.String).str.zfill(2)
        + ".123456+00:00",
        item_id="item", position=pl.col("row") % 3 + 1, click=(pl.col("x") > 50).cast(pl.Int64),
        propensity_score=pl.lit(0.0125), user_feature_0=pl.lit("ab"), user_feature_1=user + "x",
        user_feature_2=pl.when(pl.col("user") > 0).then(pl.lit("ef")), user_feature_3=user,
    )  # fmt: skip
    affinity = [pl.lit(0.0).alias(f"user-item_affinity_{i}") for i in range(N_ITEMS)]
    log.with_columns(affinity).write_csv(place / "all.csv")
    pl.DataFrame({"": range(N_ITEMS), "item_id": range(N_ITEMS)}).with_columns(
        item_feature_0=pl.col("item_id") / 7, item_feature_1=pl.lit("a"),
        item_feature_2=(pl.col("item_id") % 4).cast(pl.String), item_feature_3=pl.lit("c"),
    ).write_csv(place / "item_context.csv")  # fmt: skip


def movielens(folder: Path) -> None:
    """ml-latest-small: a title with a comma, a film without genres, one without a year."""
    place = folder / "data/ml-latest-small"
    place.mkdir(parents=True)
    views().select(
        userId=pl.col("user") + 1, movieId=pl.col("item") + 1, rating=pl.col("x") % 10 / 2 + 0.5,
        timestamp=964982703 + pl.col("row"),
    ).write_csv(place / "ratings.csv")  # fmt: skip
    lines = [f"{i},Film {i} (19{50 + i}),Comedy|Romance" for i in range(3, N_ITEMS + 1)]
    odd = ['1,"American President, The (1995)",Comedy|Drama', "2,Babylon 5,(no genres listed)"]
    (place / "movies.csv").write_text("\n".join(["movieId,title,genres", *odd, *lines]) + "\n")


def vk_lsvd(folder: Path) -> None:
    """Two weeks; a user whose number is not drawn."""
    place = folder / "data/VK-LSVD"
    (place / "metadata").mkdir(parents=True)
    (place / "interactions/train").mkdir(parents=True)
    whole = pl.UInt32, pl.UInt8
    log = views().select(
        user_id=(pl.col("user") * 500 + (pl.col("user") == 0)).cast(whole[0]),
        item_id=pl.col("item").cast(whole[0]),
        **{x: pl.lit(0).cast(whole[1]) for x in ("place", "platform", "agent")},
        timespent=pl.col("x").cast(whole[1]), like=pl.col("x") > 50,
        **{x: pl.lit(False) for x in ("dislike", "share", "bookmark", "click_on_author",
                                      "open_comments")},
    )  # fmt: skip
    half = log.height // 2
    log[:half].write_parquet(place / "interactions/train/week_00.parquet")
    log[half:].write_parquet(place / "interactions/train/week_01.parquet")
    users = log.select(pl.col("user_id").unique(maintain_order=True))
    users.with_columns(
        age=pl.lit(30).cast(whole[1]), gender=(pl.col("user_id") % 2).cast(whole[1]),
        geo=pl.lit(3).cast(whole[1]), train_interactions_rank=pl.col("user_id"),
    ).write_parquet(place / "metadata/users_metadata.parquet")  # fmt: skip
    pl.DataFrame({"item_id": range(N_ITEMS + 5)}, schema={"item_id": whole[0]}).with_columns(
        author_id=pl.col("item_id") % 7, duration=(pl.col("item_id") + 5).cast(whole[1]),
        train_interactions_rank=pl.col("item_id"),
    ).write_parquet(place / "metadata/items_metadata.parquet")  # fmt: skip


def yambda(folder: Path) -> None:
    """flat/50m: a track of two artists, one of none, a listener who is not drawn."""
    place = folder / "data/yambda"
    (place / "flat/50m").mkdir(parents=True)
    views().select(
        uid=(pl.col("user") * 1000 + 10 * (pl.col("user") == 0)).cast(pl.UInt32),
        timestamp=(5 * pl.col("row")).cast(pl.UInt32), item_id=pl.col("item").cast(pl.UInt32),
        is_organic=(pl.col("row") % 2).cast(pl.UInt8), played_ratio_pct=(2 * pl.col("x")).cast(
            pl.UInt16), track_length_seconds=(100 + pl.col("item")).cast(pl.UInt32),
    ).write_parquet(place / "flat/50m/listens.parquet")  # fmt: skip
    pl.DataFrame(
        {"artist_id": [1, 2, *range(3, N_ITEMS)], "item_id": [0, 0, *range(1, N_ITEMS - 2)]},
        schema={"artist_id": pl.UInt32, "item_id": pl.UInt32},
    ).write_parquet(place / "artist_item_mapping.parquet")


MAKE = {
    "kuairec": kuairec, "open-bandit": open_bandit, "movielens": movielens, "vk-lsvd": vk_lsvd,
    "yambda": yambda,
}  # fmt: skip
FACTS = {  # rows and videos that the run has; what of the files is told in its statistics
    "kuairec": (N_USERS * N_ROWS - 1, N_ITEMS),
    "open-bandit": (N_USERS * N_ROWS, N_ITEMS),
    "movielens": (N_USERS * N_ROWS, N_ITEMS),
    "vk-lsvd": ((N_USERS - 1) * N_ROWS, N_ITEMS),
    "yambda": ((N_USERS - 1) * N_ROWS, N_ITEMS),
}


def test_the_page_has_a_section_for_each() -> None:
    assert SECTIONS.keys() == MAKE.keys() == FACTS.keys()


@pytest.mark.parametrize("name", MAKE)
def test_files_as_published_map_and_run_as_the_page_says(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    MAKE[name](tmp_path)
    for block in re.findall(r"```python\n(.*?)```", SECTIONS[name], re.DOTALL):
        exec(compile(block, name, "exec"), {})
    (command,) = re.findall(r"\$ realdataexp (.*)", SECTIONS[name])
    small = [word for setting in SMALL for word in ("--set", setting)]
    assert cli.main([*command.split(), "--quiet", "--out", "run", *small]) == 0
    result = read_run(tmp_path / "run")
    stats = result.raw["dataset_stats"]
    assert stats["n_rows"] == FACTS[name][0]
    assert [e.label for e in result.comparison] == list(result.titles)
