"""Reading a run folder that is not what it should be."""

from __future__ import annotations

from pathlib import Path

import pytest

from realdataexp.errors import InputError
from realdataexp.report.files import read_result, read_table


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "not there"),
        (b"{", "cannot be read as JSON"),
        (b"[1]", "is not a result"),
        (b"{}", "is not a result"),
        (b"\xff", "cannot be read"),
    ],
)
def test_a_result_that_is_none_is_refused(content: bytes | None, said: str, tmp_path: Path):
    if content is not None:
        (tmp_path / "result.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"result\.json: .*{said}"):
        read_result(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"not parquet"])
def test_a_table_that_is_none_is_refused(content: bytes | None, tmp_path: Path):
    if content is not None:
        (tmp_path / "outcomes.parquet").write_bytes(content)
    with pytest.raises(InputError, match=r"outcomes\.parquet: cannot be read .*run again"):
        read_table(tmp_path, "outcomes")
