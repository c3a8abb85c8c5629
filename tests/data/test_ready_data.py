"""Public data sets are fetched and run as docs/ready-data.md says.

On small files of exactly their columns, packed as theirs are, from a server on this machine.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import re
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from realdataexp import cli, registry
from realdataexp.data.archives.base import Archive, File, some_users
from realdataexp.data.download import download, find_archive
from realdataexp.data.parquet import read_parquet
from realdataexp.errors import InputError, RunError
from realdataexp.registry import names
from realdataexp.report.files import read_run

PAGE = (Path(__file__).parents[2] / "docs" / "ready-data.md").read_text(encoding="utf-8")
COMMANDS = {  # those of a data set's section: download, and run
    commands[1].split()[1]: commands
    for text in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:]
    if len(commands := re.findall(r"^\$ realdataexp (.*)", text, re.MULTILINE)) == 2
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
    place = folder / "KuaiRec 2.0/data"
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
    place = folder / "open_bandit_dataset/random/all"
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
    place = folder / "ml-latest-small"
    place.mkdir(parents=True)
    views().select(
        userId=pl.col("user") + 1, movieId=pl.col("item") + 1, rating=pl.col("x") % 10 / 2 + 0.5,
        timestamp=964982703 + pl.col("row"),
    ).write_csv(place / "ratings.csv")  # fmt: skip
    lines = [f"{i},Film {i} (19{50 + i}),Comedy|Romance" for i in range(3, N_ITEMS + 1)]
    odd = ['1,"American President, The (1995)",Comedy|Drama', "2,Babylon 5,(no genres listed)"]
    (place / "movies.csv").write_text("\n".join(["movieId,title,genres", *odd, *lines]) + "\n")


def vk_lsvd(folder: Path) -> None:
    """Four weeks; some users whose number is not drawn."""
    weeks = folder / "subsamples/ur0.01/train"
    weeks.mkdir(parents=True)
    (folder / "metadata").mkdir()
    whole = pl.UInt32, pl.UInt8
    log = views().select(
        user_id=(pl.col("user") * 500).cast(whole[0]),
        item_id=pl.col("item").cast(whole[0]),
        **{x: pl.lit(0).cast(whole[1]) for x in ("place", "platform", "agent")},
        timespent=pl.col("x").cast(whole[1]), like=pl.col("x") > 50,
        **{x: pl.lit(False) for x in ("dislike", "share", "bookmark", "click_on_author",
                                      "open_comments")},
    )  # fmt: skip
    for i in range(4):
        log.gather_every(4, i).write_parquet(weeks / f"week_{i:02}.parquet")
    users = log.select(pl.col("user_id").unique(maintain_order=True))
    users.with_columns(
        age=pl.lit(30).cast(whole[1]), gender=(pl.col("user_id") % 2).cast(whole[1]),
        geo=pl.lit(3).cast(whole[1]), train_interactions_rank=pl.col("user_id"),
    ).write_parquet(folder / "metadata/users_metadata.parquet")  # fmt: skip
    pl.DataFrame({"item_id": range(N_ITEMS + 5)}, schema={"item_id": whole[0]}).with_columns(
        author_id=pl.col("item_id") % 7, duration=(pl.col("item_id") + 5).cast(whole[1]),
        train_interactions_rank=pl.col("item_id"),
    ).write_parquet(folder / "metadata/items_metadata.parquet")  # fmt: skip


def yambda(folder: Path) -> None:
    """flat/50m: a track of two artists, one of none, listeners who are not drawn."""
    (folder / "flat/50m").mkdir(parents=True)
    views().select(
        uid=(pl.col("user") * 10).cast(pl.UInt32),
        timestamp=(5 * pl.col("row")).cast(pl.UInt32), item_id=pl.col("item").cast(pl.UInt32),
        is_organic=(pl.col("row") % 2).cast(pl.UInt8), played_ratio_pct=(2 * pl.col("x")).cast(
            pl.UInt16), track_length_seconds=(100 + pl.col("item")).cast(pl.UInt32),
    ).write_parquet(folder / "flat/50m/listens.parquet")  # fmt: skip
    pl.DataFrame(
        {"artist_id": [1, 2, *range(3, N_ITEMS)], "item_id": [0, 0, *range(1, N_ITEMS - 2)]},
        schema={"artist_id": pl.UInt32, "item_id": pl.UInt32},
    ).write_parquet(folder / "artist_item_mapping.parquet")


MAKE = {
    "kuairec": kuairec, "open-bandit": open_bandit, "movielens": movielens, "vk-lsvd": vk_lsvd,
    "yambda": yambda,
}  # fmt: skip
ROWS = {"kuairec": N_USERS * N_ROWS - 1}  # that a run has; of the others all
EVERY = {"vk-lsvd": 2, "yambda": 2}  # of so few users; as published it is every 20th, every 100th


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server on this machine serves, and every archive lies there."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    folder = tmp_path / "server"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True).start()
    for name in names("archive"):
        base = f"http://127.0.0.1:{http.server_port}/{name}"
        patch(monkeypatch, name, replace(find_archive(name), base=base))
    yield folder
    http.shutdown()
    http.server_close()


def patch(monkeypatch: pytest.MonkeyPatch, name: str, archive: Archive) -> None:
    module, _, attribute = registry._REGISTERED["archive"][name].partition(":")
    monkeypatch.setattr(importlib.import_module(module), attribute, archive)


def publish(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make an archive's files, packed where the real ones are, with checksums of their own."""
    place, archive = folder / name, find_archive(name)
    place.mkdir()
    MAKE[name](place)
    (packed,) = [file.path for file in archive.files if file.is_packed] or [None]
    if packed:
        (place / "__MACOSX").mkdir()
        (place / "__MACOSX/._data").write_text("")
        inside = sorted(path for path in place.rglob("*") if path.is_file())
        with zipfile.ZipFile(place / packed, "w", zipfile.ZIP_DEFLATED) as made:
            for path in inside:
                made.write(path, path.relative_to(place))
    files = []
    for file in archive.files:
        kind = file.checksum.partition(":")[0]
        content = (place / file.path).read_bytes()
        if kind.endswith(".md5"):  # as GroupLens writes it
            said = f"MD5 ({file.path}) = {hashlib.md5(content).hexdigest()}\n"
            (place / kind).write_text(said)
        elif kind:
            file = File(file.path, f"{kind}:{hashlib.new(kind, content).hexdigest()}")
        files.append(file)
    patch(monkeypatch, name, replace(archive, files=tuple(files), unpacked_bytes=1))


def test_the_page_has_a_section_for_each() -> None:
    assert COMMANDS.keys() == MAKE.keys()


def test_every_archive_says_where_it_is_from_and_how_it_is_checked() -> None:
    for name in names("archive"):
        archive = find_archive(name)
        assert archive.base.startswith("https://") and archive.home.startswith("https://")
        assert archive.home in PAGE or "KuaiRand" in archive.name
        assert archive.licence and "{}" in archive.run
        for file in archive.files:
            assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{64}|.*\.md5", file.checksum)
            assert bool(file.checksum) == bool(archive.checked_by)


@pytest.mark.parametrize("name", MAKE)
def test_files_as_published_are_fetched_and_run_as_the_page_says(
    name: str,
    served: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALDATAEXP_CACHE", str(tmp_path / "cache"))
    publish(name, served, monkeypatch)
    fetch, run = COMMANDS[name]
    every = ["--every", str(EVERY[name])] if name in EVERY else []
    assert cli.main([*fetch.split(), *every]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[-1] == f"next: realdataexp {run}"
    archive = find_archive(name)
    said = f"as stated by {archive.checked_by}" if archive.checked_by else "no checksum is known"
    assert err.count(said) == len(archive.files)
    assert cli.main([*fetch.split(), *every]) == 0
    assert "was complete already" in capsys.readouterr().out
    assert not list(Path("data").rglob("*.zip")) and not list(Path("data").rglob("*.part"))
    small = [word for setting in SMALL for word in ("--set", setting)]
    assert cli.main([*run.split(), "--quiet", "--out", "run", *small]) == 0
    result = read_run(tmp_path / "run")
    stats = result.raw["dataset_stats"]
    assert stats["n_rows"] == ROWS.get(name, N_USERS * N_ROWS // EVERY.get(name, 1))
    assert [e.label for e in result.comparison] == list(result.titles)


def test_other_users_are_kept_of_the_files_that_are_there(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("vk-lsvd", served, monkeypatch)
    archive, folder = find_archive("vk-lsvd"), tmp_path / "data [1]"  # which is no pattern
    for every, n_users in ((2, 12), (5, 5)):
        assert download(archive, folder, every=every)
        log = read_parquet(folder / "log.parquet")
        assert sorted(log["user_id"].unique()) == [500 * every * i for i in range(n_users)]
        assert log["time"].is_sorted()
        users = read_parquet(folder / "users.parquet")
        assert users["user_id"].n_unique() == users.height == n_users
        for path in served.rglob("*.parquet"):
            path.unlink()  # nothing is fetched again
    assert not download(archive, folder, every=5)


def test_a_mirror_of_several_files_is_the_folder_they_lie_in_and_no_folder_is_a_pattern(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("yambda", served, monkeypatch)
    archive = find_archive("yambda")
    away = replace(archive, base="http://127.0.0.1:1/nowhere")
    assert download(away, tmp_path / "data [1]", url=f"{archive.base}/", every=1)
    for name in ("movielens", "open-bandit"):
        publish(name, served, monkeypatch)
        assert download(find_archive(name), tmp_path / f"{name} [1]")


def test_one_wrong_file_of_several_is_one_line_and_the_others_stay(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("yambda", served, monkeypatch)
    (served / "yambda/artist_item_mapping.parquet").write_bytes(b"other")
    folder = tmp_path / "data"
    with pytest.raises(RunError, match=r"artist_item_mapping.parquet: gave a file whose sha256 is"):
        download(find_archive("yambda"), folder)
    left = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    assert left == ["flat/50m/listens.parquet"]


def test_a_file_that_states_no_md5_is_one_line(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("movielens", served, monkeypatch)
    (served / "movielens/ml-latest-small.zip.md5").write_text("<html>not found</html>")
    with pytest.raises(RunError, match=r"ml-latest-small.zip.md5: states no md5"):
        download(find_archive("movielens"), tmp_path / "data")


def test_files_that_are_not_as_published_are_one_line(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MAKE, "movielens", _without_titles)
    publish("movielens", served, monkeypatch)
    said = r"ml-latest-small could not be prepared: ColumnNotFoundError: .*compare its files"
    with pytest.raises(RunError, match=said) as caught:
        download(find_archive("movielens"), tmp_path / "data")
    assert "\n" not in str(caught.value)


def _without_titles(folder: Path) -> None:
    movielens(folder)
    (folder / "ml-latest-small/movies.csv").write_text("movieId,genres\n1,Comedy\n")


def bad_zips(place: Path) -> dict[str, Path]:
    """Zip files that must not be unpacked."""
    link = zipfile.ZipInfo("ml-latest-small/ratings.csv")
    link.external_attr = 0o120777 << 16
    bad = {
        "a path that leads out": ("../ratings.csv", b"x"),
        "an absolute path": ("/tmp/ratings-of-a-test.csv", b"x"),
        "a link": (link, b"/etc/passwd"),
        "no data": ("ml-latest-small/links.csv", b"x"),
    }
    made = {}
    for name, (member, content) in bad.items():
        made[name] = place / f"{name}.zip"
        with zipfile.ZipFile(made[name], "w") as archive:
            archive.writestr(member, content)
    whole = zipfile.ZipFile(place / "whole.zip", "w")
    with whole as archive:
        archive.writestr("ml-latest-small/ratings.csv", b"1,2,3" * 500)
    content = (place / "whole.zip").read_bytes()
    made["damaged"] = place / "damaged.zip"
    made["damaged"].write_bytes(content.replace(b"1,2,3", b"1,2,4", 1))
    made["no archive"] = place / "no archive.zip"
    made["no archive"].write_bytes(b"<html>")
    return made


def test_a_zip_that_is_bad_is_one_line_and_leaves_nothing(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {
        "a path that leads out": "refused", "an absolute path": "refused", "a link": "refused",
        "no data": "holds no file of data", "damaged": "cannot be unpacked",
        "no archive": "cannot be unpacked",
    }  # fmt: skip
    publish("movielens", served, monkeypatch)
    archive = find_archive("movielens")
    for name, path in bad_zips(tmp_path).items():
        (served / "movielens/ml-latest-small.zip").write_bytes(path.read_bytes())
        digest = hashlib.md5(path.read_bytes()).hexdigest()
        bad = replace(archive, files=(File("ml-latest-small.zip", f"md5:{digest}"),))
        folder = tmp_path / "outer" / name
        with pytest.raises(RunError, match=expected[name]) as caught:
            download(bad, folder)
        assert "\n" not in str(caught.value)
        left = [path.name for path in folder.parent.rglob("*") if path.is_file()]
        assert set(left) == {"ml-latest-small.zip"}, name
    assert not Path("/tmp/ratings-of-a-test.csv").exists()


def test_every_second_user_is_kept_in_their_order() -> None:
    log = pl.LazyFrame({"user": [7, 3, 9, 3, 5, 7], "row": range(6)})
    assert some_users(log, "user", 2).collect()["row"].to_list() == [0, 1, 3, 5]
    assert some_users(log, "user", 1).collect().equals(log.collect())


def test_an_archive_of_another_package_is_fetched_as_the_page_says(
    served: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "my_data.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_data", raising=False)
    archive = find_archive("my_data:SHOP")
    (served / archive.files[0].path).write_text("user_id,video_id\n1,2\n")
    base = find_archive("yambda").base.rpartition("/")[0]
    assert download(archive, tmp_path / "shop", url=f"{base}/{archive.files[0].path}")
    assert (tmp_path / "shop" / archive.files[0].path).is_file()
    with pytest.raises(InputError, match="my_data:NONE"):
        find_archive("my_data:NONE")
