"""Downloading, against a server on this machine that does everything a server can do wrong."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from realdataexp import cli
from realdataexp.data.archives import kuairand
from realdataexp.data.archives.base import File
from realdataexp.data.download import download, find_archive, locked
from realdataexp.data.transfer import Patience
from realdataexp.errors import DiskError, InputError, RunError

LOG = random.Random(0).randbytes(300_000)
FILES = {
    "KuaiRand-Pure/data/log_pure.csv": LOG,
    "KuaiRand-Pure/data/user_pure.csv": b"user_id\n1\n",
    "KuaiRand-Pure/load_data_pure.py": b"pass\n",
}


def packed(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    """A .tar.gz of these members, the same bytes each time."""
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return gzip.compress(raw.getvalue(), compresslevel=1, mtime=0)


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


ARCHIVE = packed(
    [member("KuaiRand-Pure/data", type=tarfile.DIRTYPE, mode=0o755)]
    + [member(name, content) for name, content in FILES.items()]
)


class Server:
    """Serves one file. `script` holds what the next requests meet; then all goes well.

    Its entries: a status code; ("cut", n): the connection ends after n bytes; ("slow",): nothing
    comes for a while; a function of the handler, which does it all.
    """

    def __init__(self) -> None:
        self.content = ARCHIVE
        self.has_ranges, self.has_length, self.range_shift = True, True, 0
        self.pause_s = 0.0
        self.script: list[object] = []
        self.requests: list[dict[str, str]] = []
        self.paths: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.paths.append(self.path)
                server.requests.append(dict(self.headers))
                with contextlib.suppress(ConnectionError):
                    server.answer(self)

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}/KuaiRand-Pure.tar.gz"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        act = self.script.pop(0) if self.script else None
        if isinstance(act, int):
            handler.send_error(act)
            return
        if isinstance(act, types.FunctionType):
            act(handler)
            return
        if act == ("slow",):
            time.sleep(0.6)
        start = self.start_of(handler)
        if start is None:
            handler.send_error(416)
            return
        size, body = len(self.content), self.content[start or 0 :]
        handler.send_response(206 if start else 200)
        headers = {
            "Content-Range": f"bytes {start}-{size - 1}/{size}" if start else None,
            "Content-Length": str(len(body)) if self.has_length else None,
        }
        for name, value in headers.items():
            if value is not None:
                handler.send_header(name, value)
        handler.end_headers()
        n_bytes = act[1] if isinstance(act, tuple) and act[0] == "cut" else len(body)
        for at in range(0, min(n_bytes, len(body)), 10_000):
            handler.wfile.write(body[at : min(at + 10_000, n_bytes)])
            time.sleep(self.pause_s)

    def start_of(self, handler: BaseHTTPRequestHandler) -> int | None:
        """The first byte to send: 0 for the whole file, None where nothing is left."""
        wanted = handler.headers.get("Range")
        if wanted is None or not self.has_ranges:
            return 0
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        return start + self.range_shift if start < len(self.content) else None

    def ranges(self) -> list[str | None]:
        return [request.get("Range") for request in self.requests]


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.http.shutdown()
    server.http.server_close()


@pytest.fixture(autouse=True)
def _own_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive of these tests stands for the official one, and no proxy is asked."""
    use(monkeypatch, ARCHIVE)
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def use(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    files = (File("KuaiRand-Pure.tar.gz", f"md5:{hashlib.md5(content).hexdigest()}"),)
    archive = replace(kuairand.PURE, files=files, unpacked_bytes=400_000)
    monkeypatch.setattr(kuairand, "PURE", archive)


QUICK = Patience(
    attempts=4, first_wait_s=0.001, max_wait_s=0.002, timeout_s=10.0, progress_bytes=1000
)


def get(server: Server, folder: Path, **options: object) -> bool:
    options = {"url": server.url, "patience": QUICK, **options}
    return download(kuairand.PURE, folder, **options)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder but the list of what was downloaded."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in files
        if path.name != ".download.json"
    }


WHOLE = {name.removeprefix("KuaiRand-Pure/"): content for name, content in FILES.items()}


def test_the_official_archives_are_those_of_the_record():
    archive = find_archive("27k")
    assert f"{archive.base}/{archive.files[0].path}" == (
        "https://zenodo.org/records/10439422/files/KuaiRand-27K.tar.gz"
    )
    assert archive.files[0].checksum == "md5:3e3c799a24e2d23a4d2c757fbf9adf59"


def test_an_archive_is_fetched_checked_and_unpacked(server: Server, tmp_path: Path):
    folder, seen = tmp_path / "new" / "data", []
    assert get(server, folder, progress=lambda *args: seen.append(args))
    assert contents(folder) == WHOLE
    assert server.ranges() == [None]
    assert [phase for phase in dict.fromkeys(phase for phase, *_ in seen)] == [
        "download",
        "check",
        "unpack",
    ]
    assert ("download", len(ARCHIVE), len(ARCHIVE)) in seen


def test_a_finished_folder_is_left_alone(server: Server, tmp_path: Path):
    get(server, tmp_path)
    assert not get(server, tmp_path)
    assert len(server.requests) == 1
    (tmp_path / "data" / "log_pure.csv").write_bytes(b"cut")
    assert get(server, tmp_path)
    assert contents(tmp_path) == WHOLE


def test_the_archive_can_be_kept_and_used_again(server: Server, tmp_path: Path):
    get(server, tmp_path, keep_archive=True)
    assert contents(tmp_path) == WHOLE | {"KuaiRand-Pure.tar.gz": ARCHIVE}
    shutil.rmtree(tmp_path / "data")
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    assert len(server.requests) == 1


def test_an_archive_that_is_there_but_wrong_is_refused_and_kept(server: Server, tmp_path: Path):
    (tmp_path / "KuaiRand-Pure.tar.gz").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"is not the official file.*remove it"):
        get(server, tmp_path)
    assert contents(tmp_path) == {"KuaiRand-Pure.tar.gz": b"mine"}


# ---- broken transfers -------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_a_connection_that_breaks_anywhere_is_taken_up_where_it_broke(
    seed: int, server: Server, tmp_path: Path
):
    rng = random.Random(seed)
    server.script = [("cut", rng.randrange(1000, 60_000)) for _ in range(8)]
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    starts = [int(text[6:-1]) for text in server.ranges()[1:]]  # type: ignore[index]
    assert len(starts) == 8
    assert starts == sorted(set(starts))


def test_a_server_without_ranges_starts_over(server: Server, tmp_path: Path):
    server.has_ranges = False
    server.script = [("cut", 50_000), ("cut", 100_000)]
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    assert len(server.requests) == 3


def test_a_server_without_ranges_that_always_breaks_is_given_up(server: Server, tmp_path: Path):
    server.has_ranges = False
    server.script = [("cut", 50_000)] * 50
    with pytest.raises(RunError, match=r"gave up after 4 attempts, .*bytes have come.*again"):
        get(server, tmp_path)
    assert len(server.requests) == 4


def test_a_range_that_starts_elsewhere_starts_over(server: Server, tmp_path: Path):
    server.script = [("cut", 50_000)]
    server.range_shift = 7
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    assert [text is None for text in server.ranges()] == [True, False, True]


def test_a_file_that_changed_half_way_is_told_by_its_md5(server: Server, tmp_path: Path):
    server.content = ARCHIVE[::-1]
    server.script = [("cut", 50_000), 503, 503, 503]
    with pytest.raises(RunError):
        get(server, tmp_path)
    server.content = ARCHIVE
    with pytest.raises(
        RunError, match=r"gave a file whose md5 is .* it was removed: run the command"
    ):
        get(server, tmp_path)
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE


def test_a_part_longer_than_the_file_starts_over(server: Server, tmp_path: Path):
    (tmp_path / "KuaiRand-Pure.tar.gz.part").write_bytes(ARCHIVE + b"more")
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE


def test_a_part_of_another_address_goes_on(server: Server, tmp_path: Path):
    (tmp_path / "KuaiRand-Pure.tar.gz.part").write_bytes(ARCHIVE[:70_000])
    get(server, tmp_path)
    assert server.ranges() == ["bytes=70000-"]
    assert contents(tmp_path) == WHOLE


def test_a_part_that_is_whole_is_not_fetched_again(server: Server, tmp_path: Path):
    (tmp_path / "KuaiRand-Pure.tar.gz.part").write_bytes(ARCHIVE)
    seen: list[str] = []
    get(server, tmp_path, progress=lambda phase, *_: seen.append(phase))
    assert "download" not in seen
    assert contents(tmp_path) == WHOLE


def test_wrong_bytes_are_removed(server: Server, tmp_path: Path):
    server.content = ARCHIVE[:-5] + b"wrong"
    with pytest.raises(RunError, match=r"gave a file whose md5 is .* it was removed") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert contents(tmp_path) == {}


def test_a_file_of_unknown_length_that_ends_early_is_told_by_its_md5(
    server: Server, tmp_path: Path
):
    server.has_length, server.script = False, [("cut", 50_000)]
    with pytest.raises(RunError, match="md5"):
        get(server, tmp_path)
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_a_refusal_ends_at_once(code: int, server: Server, tmp_path: Path):
    server.script = [code] * 9
    with pytest.raises(RunError, match=f"answers {code}"):
        get(server, tmp_path)
    assert len(server.requests) == 1


@pytest.mark.parametrize("code", [408, 429, 500, 502, 503])
def test_a_server_in_trouble_is_asked_again(code: int, server: Server, tmp_path: Path):
    server.script = [code, code]
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    assert len(server.requests) == 3


def test_a_server_says_when_to_come_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def busy(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(429)
        handler.send_header("Retry-After", "7")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    waits: list[float] = []
    monkeypatch.setattr("realdataexp.data.transfer.time.sleep", waits.append)
    server.script = [busy]
    get(server, tmp_path, patience=Patience(attempts=3, timeout_s=5))
    assert waits[0] == 7.0
    assert contents(tmp_path) == WHOLE


def test_a_host_that_is_not_found_ends_soon_and_asks_for_a_network(
    monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path
):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    said = r"gave up after 3 attempts.*the host nowhere.example is not found.*is there a network"
    with pytest.raises(RunError, match=said):
        get(server, tmp_path, url="http://nowhere.example/archive.tar.gz")


def test_waits_grow_and_end(monkeypatch: pytest.MonkeyPatch, server: Server, tmp_path: Path):
    waits: list[float] = []
    monkeypatch.setattr("realdataexp.data.transfer.time.sleep", waits.append)
    server.script = [500] * 20
    with pytest.raises(RunError, match=r"gave up after 8 attempts.*500"):
        get(server, tmp_path, patience=Patience())
    assert waits == [1, 2, 4, 8, 16, 30, 30]


def test_a_redirect_is_followed_with_the_range(server: Server, tmp_path: Path):
    def elsewhere(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "/moved")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.script = [elsewhere, ("cut", 40_000), elsewhere]
    get(server, tmp_path)
    assert server.paths == ["/KuaiRand-Pure.tar.gz", "/moved"] * 2
    assert server.ranges()[3] == server.ranges()[2] is not None
    assert contents(tmp_path) == WHOLE


def test_a_redirect_to_a_file_is_not_followed(server: Server, tmp_path: Path):
    def to_a_file(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", "file:///etc/passwd")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    server.script = [to_a_file]
    with pytest.raises(RunError, match="302"):
        get(server, tmp_path)


def test_a_server_that_falls_silent_is_asked_again(server: Server, tmp_path: Path):
    server.script = [("slow",)]
    get(server, tmp_path, patience=replace(QUICK, timeout_s=0.3))
    assert len(server.requests) >= 2
    assert contents(tmp_path) == WHOLE


def test_a_slow_server_is_borne(server: Server, tmp_path: Path):
    server.pause_s = 0.02
    get(server, tmp_path)
    assert len(server.requests) == 1


def test_nobody_there_is_one_clear_line(tmp_path: Path, server: Server):
    server.http.shutdown()
    server.http.server_close()
    with pytest.raises(RunError, match=r"gave up after 4 attempts, 0 bytes.*refused"):
        get(server, tmp_path)


def test_the_environments_proxy_is_used(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("http_proxy", server.url.rpartition("/")[0])
    get(server, tmp_path, url="http://nowhere.invalid/x.tar.gz")
    assert server.paths == ["http://nowhere.invalid/x.tar.gz"]
    assert contents(tmp_path) == WHOLE


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://a/b", "file:///etc/passwd", "http://", "http://a:99999/", "http://a b/c",
     "http://a/\n", "http://ä/x", "http://[::1/x"],
)  # fmt: skip
def test_no_address_is_refused(url: str, server: Server, tmp_path: Path):
    with pytest.raises(InputError, match=r"is no http or https address"):
        get(server, tmp_path, url=url or " ")


# ---- archives that mean no good ---------------------------------------------------------------


def sparse() -> tuple[tarfile.TarInfo, bytes]:
    """A few bytes that claim to be a terabyte (the sparse files of PAX)."""
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "KuaiRand-Pure/data/big.csv",
        "GNU.sparse.realsize": str(10**12),
    }
    return member("big", b"1\n0\n1\n".ljust(512, b"\0") + b"x", pax_headers=headers)


@pytest.mark.parametrize(
    "bad",
    [
        member("../escape", b"x"),
        member("KuaiRand-Pure/../../escape", b"x"),
        member("/tmp/absolute-path-of-a-test", b"x"),
        member("KuaiRand-Pure/data/link", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("KuaiRand-Pure/data/link", type=tarfile.SYMTYPE, linkname="log_pure.csv"),
        member("hard", type=tarfile.LNKTYPE, linkname="KuaiRand-Pure/data/log_pure.csv"),
        member("device", type=tarfile.CHRTYPE, devmajor=1, devminor=3),
        member("device", type=tarfile.BLKTYPE),
        member("pipe", type=tarfile.FIFOTYPE),
        sparse(),
    ],
    ids=lambda bad: f"{bad[0].name}-{bad[0].type.decode()}",
)
def test_anything_but_files_and_folders_inside_is_refused(
    bad: tuple[tarfile.TarInfo, bytes],
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    server.content = packed([member(name, content) for name, content in FILES.items()] + [bad])
    use(monkeypatch, server.content)
    folder = tmp_path / "a" / "b"
    with pytest.raises(RunError, match=r"refused: .* is not a plain file or folder"):
        get(server, folder)
    assert contents(tmp_path) == {"a/b/KuaiRand-Pure.tar.gz": server.content}
    assert not Path("/tmp/absolute-path-of-a-test").exists()
    assert not (folder / ".unpacking").exists()


def test_a_file_that_claims_more_than_the_disk_has_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    info, _ = member("KuaiRand-Pure/data/big.csv")
    info.size = 10**15
    raw = info.tobuf(tarfile.GNU_FORMAT) + b"\0" * 10_240
    server.content = gzip.compress(raw, mtime=0)
    use(monkeypatch, server.content)
    with pytest.raises(InputError, match=r"are free, about 1,000,000.0 GB are needed"):
        get(server, tmp_path)
    assert not (tmp_path / ".unpacking").exists()


@pytest.mark.parametrize(
    "content",
    [
        ARCHIVE[: len(ARCHIVE) // 2],
        b"no archive",
        b"",
        packed([member("a", b"1"), member("a", b"2")]),
        packed([member("a", b"1"), member("a/b", b"2")]),
    ],
    ids=["cut", "no archive", "empty", "twice", "file and folder"],
)
def test_a_damaged_archive_is_one_clear_line(
    content: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    server.content = content
    use(monkeypatch, content)
    with pytest.raises(RunError, match="cannot be unpacked") as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data").exists()


# ---- the folder -------------------------------------------------------------------------------


def test_data_that_are_there_already_are_not_mixed_with(server: Server, tmp_path: Path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError, match=r"data: exists, and not from a download"):
        get(server, tmp_path)
    assert not server.requests


def test_a_file_of_the_archives_that_is_there_already_stays(server: Server, tmp_path: Path):
    (tmp_path / "load_data_pure.py").write_text("mine")
    with pytest.raises(InputError, match=r"load_data_pure.py: exists"):
        get(server, tmp_path)
    assert (tmp_path / "load_data_pure.py").read_text() == "mine"
    assert not (tmp_path / "data").exists()


def test_other_files_of_the_reader_do_not_matter(server: Server, tmp_path: Path):
    (tmp_path / "notes.txt").write_text("mine")
    get(server, tmp_path)
    assert contents(tmp_path) == WHOLE | {"notes.txt": b"mine"}


def test_another_version_gets_another_folder(server: Server, tmp_path: Path):
    get(server, tmp_path)
    with pytest.raises(
        InputError, match=r"holds KuaiRand-Pure; choose another folder for KuaiRand-1K"
    ):
        download(find_archive("1k"), tmp_path, url=server.url)


def test_a_second_download_into_the_same_folder_waits_for_nobody(server: Server, tmp_path: Path):
    if sys.platform == "win32":
        pytest.skip("no locks there")
    with locked(tmp_path), pytest.raises(InputError, match="another download is writing here"):
        get(server, tmp_path)


@pytest.mark.parametrize(
    ("free", "n_requests"),
    [(399_999, 0), (400_000 + len(ARCHIVE) - 1, 1)],
    ids=["not even the data", "not the archive too"],
)
def test_space_is_checked_before_a_byte_is_written(
    free: int, n_requests: int, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    usage = types.SimpleNamespace(free=free)
    monkeypatch.setattr("realdataexp.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"GB are free, about 0\.\d GB are needed; free some"):
        get(server, tmp_path)
    assert len(server.requests) == n_requests
    assert (
        sum(len(content) for name, content in contents(tmp_path).items() if "json" not in name) == 0
    )


@pytest.mark.parametrize("name", ["open", "mkdir"])
def test_a_disk_that_runs_full_is_one_clear_line(
    name: str, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = getattr(Path, name)

    def full(path: Path, *args: object, **kwargs: object) -> object:
        if ".unpacking" in path.parts and "data" in path.parts:
            raise OSError(28, "No space left on device", str(path))
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, name, full)
    with pytest.raises(DiskError, match="no space left on the device"):
        get(server, tmp_path)
    monkeypatch.undo()
    assert set(contents(tmp_path)) == {"KuaiRand-Pure.tar.gz"}


def test_a_folder_that_is_a_file_is_refused(server: Server, tmp_path: Path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        get(server, tmp_path / "file")


def test_an_interruption_while_files_are_put_in_place_is_mended(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real, n_renamed = Path.replace, []

    def interrupted(path: Path, target: Path) -> Path:
        if ".unpacking" in path.parts:
            n_renamed.append(path)
            if len(n_renamed) == 3:  # the list, one file
                raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt, match="the same command resumes"):
            get(server, tmp_path)
    assert get(server, tmp_path)
    assert contents(tmp_path) == WHOLE
    assert len(server.requests) == 1


CHILD = """
import sys
from realdataexp import cli
from dataclasses import replace
from realdataexp.data.archives import kuairand
from realdataexp.data.archives.base import File
files = (File("KuaiRand-Pure.tar.gz", f"md5:{sys.argv[1]}"),)
kuairand.PURE = replace(kuairand.PURE, files=files, unpacked_bytes=400_000)
sys.exit(cli.main(["download", "pure", sys.argv[2], "--url", sys.argv[3]]))
"""


@pytest.mark.skipif(os.name == "nt", reason="no such signals there")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_process_that_ends_in_the_middle_is_continued_by_the_next(
    number: signal.Signals, server: Server, tmp_path: Path
):
    server.pause_s = 0.1
    folder = tmp_path / "data set"
    md5 = hashlib.md5(ARCHIVE).hexdigest()
    args = [sys.executable, "-c", CHILD, md5, str(folder), server.url]
    part = folder / "KuaiRand-Pure.tar.gz.part"
    child = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: part.exists() and part.stat().st_size > 30_000)
    finally:
        child.send_signal(number)
        _, err = child.communicate()
    if number == signal.SIGINT:
        assert child.returncode == 130
        assert err.splitlines()[-1].startswith("interrupted; the same command resumes")
    assert set(contents(folder)) == {part.name}
    have, server.pause_s = part.stat().st_size, 0.0
    done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, said("complete", folder)), done.stderr
    assert server.ranges() == [None, f"bytes={have}-"]
    assert contents(folder) == WHOLE


def said(state: str, folder: Path) -> str:
    """What the command prints in the end."""
    return (
        f"{folder}: {state}\n"
        "KuaiRand-Pure: CC BY-SA 4.0, see https://kuairand.com\n"
        f"next: realdataexp run kuairand-pure --data {folder}\n"
    )


def wait_for(is_so: Callable[[], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.005)


# ---- the command ------------------------------------------------------------------------------


def test_the_command_says_what_it_did(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    args = ["download", "pure", str(tmp_path), "--url", server.url]
    assert cli.main(args) == 0
    out, err = capsys.readouterr()
    assert out == said("complete", tmp_path)
    assert f"{kuairand.PURE.files[0].checksum}, as stated by Zenodo" in err
    assert cli.main(args) == 0
    assert capsys.readouterr().out == said("was complete already", tmp_path)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (["28k"], 2, "unknown archive; did you mean 27k"),
        (["realdataexp.errors:InputError"], 2, "is no realdataexp.data.archives.base.Archive"),
        (["pure", "--url", "nothing"], 2, "--url nothing: is no http or https address"),
        (["movielens", "--url", "ftp://x"], 2, "--url ftp://x: is no http or https address"),
        (["pure", "--every", "2"], 2, "--every 2: KuaiRand-Pure is kept as it is"),
        (["movielens", "--every", "0"], 2, "--every 0: must be at least 1"),
        (["pure"], 1, "answers 404"),
    ],
)
def test_the_commands_faults_are_one_line(
    args: list[str],
    code: int,
    said: str,
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    server.script = [404]
    base = server.url.rpartition("/")[0]
    monkeypatch.setattr(kuairand, "PURE", replace(kuairand.PURE, base=base))
    assert cli.main(["download", args[0], str(tmp_path / "x"), *args[1:]]) == code
    lines = [x for x in capsys.readouterr().err.splitlines() if not x.startswith("[download]")]
    assert len(lines) == 1
    assert said in lines[0]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            "files=(File('../evil.zip'),)",
            "must be a path below the folder, such as",
        ),
        (
            "files=(File('/etc/passwd'),)",
            "must be a path below the folder, such as",
        ),
        (
            "files=(File('a.csv', 'md5:abc'),)",
            "must be md5: with 32 or sha256: with 64 hexadecimal digits",
        ),
        ("files=()", "Archive: files: Tuple should have at least 1 item"),
        ("base='file:///etc'", "Archive: base: String should match pattern"),
        ("unpacked_bytes='some'", "Archive: unpacked_bytes: Input should be a valid integer"),
    ],
)
def test_an_archive_from_outside_that_is_none_is_one_line(
    changes: str,
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    (tmp_path / "mine_too.py").write_text(
        "from realdataexp.data.archives.base import Archive, File\n"
        "of = dict(name='Mine', home='', licence='', base='https://x.org', files=(File('a.csv'),),"
        " checked_by='', holds='a.csv', unpacked_bytes=1, run='')\n"
        f"MINE = Archive(**{{**of, **dict({changes})}})\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine_too", raising=False)
    assert cli.main(["download", "mine_too:MINE", str(tmp_path / "x")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "its import raised ValidationError" in line and said in line and "mine_too.py:3" in line
    assert not (tmp_path / "x").exists()


def test_bytes_are_shown_in_lines_where_there_is_no_terminal(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("realdataexp.terminal._SECONDS_BETWEEN_LINES", 0.0)
    assert cli.main(["download", "pure", str(tmp_path), "--url", server.url]) == 0
    err = capsys.readouterr().err
    assert "[download] download: 0 of 0 MB" in err
    assert "\r" not in err


def test_bytes_are_shown_as_a_bar_on_a_terminal(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True)
    assert cli.main(["download", "pure", str(tmp_path), "--url", server.url]) == 0
    assert "unpack" in capsys.readouterr().err


# --- servers and archives that mean no good -------------------------------------------------------


def to(url: str | None, code: int = 302, reason: str = "Found") -> Callable[..., None]:
    """What redirects to an address; None: to nowhere."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code, reason)
        if url is not None:
            handler.send_header("Location", url)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://127.0.0.1/x", "http://[::1", "http://127.0.0.1:port/", "http://",
     "http://a..b/x", "javascript:alert(1)", None, "/KuaiRand-Pure.tar.gz"],
)  # fmt: skip
def test_a_redirect_that_leads_nowhere_is_one_line(url: str | None, server: Server, tmp_path: Path):
    server.script = [to(url)] * 50  # the last one: in a circle
    with pytest.raises(RunError) as caught:
        get(server, tmp_path)
    assert "\n" not in str(caught.value) and "--url" in str(caught.value)
    assert server.url in str(caught.value)
    assert contents(tmp_path) == {}


def test_a_redirect_to_another_path_is_followed(server: Server, tmp_path: Path):
    server.script = [to(f"/to/{code}", code) for code in (301, 302, 303, 307, 308)]
    assert get(server, tmp_path)
    assert contents(tmp_path) == WHOLE and server.paths[-1] == "/to/308"


@pytest.mark.parametrize("url", ["http://a..b/x", "http://[::1", "http://x:y/", "x", "file:///x"])
def test_an_address_that_is_none_is_refused(url: str, server: Server, tmp_path: Path):
    with pytest.raises(InputError, match="is no http or https address"):
        get(server, tmp_path, url=url)


@pytest.mark.parametrize(
    "content",
    [
        packed([]),
        packed([member("KuaiRand-Pure/data", type=tarfile.DIRTYPE, mode=0o755)]),
        packed([member("KuaiRand-Pure/data/log_pure.csv", b"")]),
        packed([member("readme.txt", b"hello")]),
        ARCHIVE[:-8] + bytes(4) + ARCHIVE[-4:],
        ARCHIVE[:-4] + bytes(4),
        ARCHIVE[:-2],
        gzip.compress(gzip.decompress(ARCHIVE)[:1500]),
        gzip.compress(b""),
        b"<html>not found</html>",
    ],
    ids=["nothing", "a folder", "an empty file", "no data", "checksum", "length", "cut",
         "cut inside a file", "an empty file packed", "a page"],
)  # fmt: skip
def test_an_archive_without_data_or_with_damage_is_noticed(
    content: bytes, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    use(monkeypatch, content)  # as if its md5 were the one that is known
    server.content = content
    for _ in range(2):  # and it is not taken for complete afterwards
        with pytest.raises(RunError) as caught:
            get(server, tmp_path)
        assert "\n" not in str(caught.value) and "KuaiRand-Pure.tar.gz" in str(caught.value)
    assert set(contents(tmp_path)) == {"KuaiRand-Pure.tar.gz"}


def test_what_a_server_says_reaches_the_terminal_as_plain_text(
    server: Server,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    server.script = [to(None, 404, "gone\x1b[2J\x07")]
    assert cli.main(["download", "pure", str(tmp_path), "--url", server.url]) == 1
    err = capsys.readouterr().err
    assert "\x1b" not in err and "\x07" not in err and "404 gone" in err
