"""KuaiRand (Gao et al., CIKM 2022): sizes and md5 are those of Zenodo's record 10439422."""

from __future__ import annotations

from realdataexp.data.archives.base import Archive, File


def _version(version: str, md5: str, unpacked_bytes: int) -> Archive:
    return Archive(
        name=f"KuaiRand-{version}",
        home="https://kuairand.com",
        licence="CC BY-SA 4.0",
        base="https://zenodo.org/records/10439422/files",
        files=(File(f"KuaiRand-{version}.tar.gz", f"md5:{md5}"),),
        checked_by="Zenodo",
        holds="data/*.csv",
        unpacked_bytes=unpacked_bytes,
        run=f"run kuairand-{version.lower()} --data {{}}",
    )


PURE = _version("Pure", "0820331067a3784d9691136f772b35a7", 210_000_000)
ONE_K = _version("1K", "6b0b9c8222d67fcd4c676218edca3f1f", 4_700_000_000)
TWENTY_SEVEN_K = _version("27K", "3e3c799a24e2d23a4d2c757fbf9adf59", 50_000_000_000)
