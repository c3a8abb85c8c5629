"""KuaiRec 2.0 (Gao et al., CIKM 2022): Zenodo's record 18164998; 431,964,858 bytes."""

from __future__ import annotations

from realdataexp.data.archives.base import Archive, File

ARCHIVE = Archive(
    name="KuaiRec",
    home="https://kuairec.com",
    licence="CC BY-SA 4.0",
    base="https://zenodo.org/records/18164998/files",
    files=(File("KuaiRec.zip", "md5:261550d472c48eff4990fb13c0e5bcf7"),),
    checked_by="Zenodo",
    holds="data/small_matrix.csv",
    unpacked_bytes=2_000_000_000,
    run="run kuairec --data {}/data",
)
