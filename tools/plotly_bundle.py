"""Fetches the part of plotly.js that draws the charts of pages, to be shipped in the wheel.

The whole of plotly.js, which the Python package plotly brings, is three times as large. The bundle
is another project's (MIT licence) and no file of this repository: it lies, with its licence, beside
the page's templates, where the build takes it from and git ignores it. A page made where it is
missing takes the whole of plotly.js.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VERSION = "4.1.1"  # that of the Python package plotly which constraints.txt pins
PACKAGE = f"plotly.js-cartesian-dist-min@{VERSION}"
REPORT = Path(__file__).parents[1] / "src" / "realdataexp" / "report"
FILES = {  # in the package, here, and the SHA-256
    "package/plotly-cartesian.min.js": (
        "plotly.min.js",
        "79542150855a52c567260e3137095dbe2b744e6d702a5cabe67da246942fba7a",
    ),
    "package/LICENSE": (
        "plotly.LICENSE.txt",
        "8c45d9eaf50c2f72dd9c7ab9ef440788ba58a3538484b5c51c1f17d5128752e7",
    ),
}


def is_here() -> bool:
    """Whether the files of this version are in their place."""
    known = [(REPORT / name, digest) for name, digest in FILES.values()]
    return all(path.is_file() and _sha256(path.read_bytes()) == x for path, x in known)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch() -> None:
    """Fetch the package with npm and put its two files in their place."""
    npm = shutil.which("npm")
    if npm is None:
        sys.exit("npm is not on the path: it fetches the charts' script; install Node.js")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([npm, "pack", "--silent", PACKAGE], cwd=folder, check=True)
        (archive,) = Path(folder).glob("*.tgz")
        with tarfile.open(archive) as tar:
            for member, (name, digest) in FILES.items():
                file = tar.extractfile(member)
                content = file.read() if file else b""
                if _sha256(content) != digest:
                    sys.exit(f"{PACKAGE}: {member} is not the file that was reviewed")
                (REPORT / name).write_bytes(content)


if __name__ == "__main__":
    if not is_here():
        fetch()
