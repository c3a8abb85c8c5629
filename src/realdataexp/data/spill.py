"""Tables too large for memory: written to disk in sorted batches, read back by ranges of the key.

This is an external sort: whatever the batches' sizes and order, a range holds the same rows.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa


class Spill:
    """Batches of rows on disk, each sorted by a whole-numbered key without gaps (no nulls).

    Columns and their types may differ between batches: each combination has a file of its own.
    Ranges may be read by several threads at once, once ``seal`` was called.
    """

    def __init__(self, directory: Path, name: str, key: str) -> None:
        """Spill into ``directory`` under names that start with ``name``."""
        self._directory, self._name, self._key = directory, name, key
        self._paths: list[Path] = []
        self._writers: dict[pa.Schema, pa.RecordBatchFileWriter] = {}
        self._bounds: list[list[tuple[int, int]]] = []  # per file: each batch's least and greatest

    def append(self, frame: pl.DataFrame) -> None:
        """Write a batch, sorted by the key."""
        if frame.is_empty():
            return
        table = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        if table.schema not in self._writers:
            path = self._directory / f"{self._name}-{len(self._paths)}.arrow"
            self._paths.append(path)
            self._bounds.append([])
            self._writers[table.schema] = pa.ipc.new_file(path, table.schema)
        bounds = self._bounds[list(self._writers).index(table.schema)]
        for batch in table.combine_chunks().to_batches():
            self._writers[table.schema].write_batch(batch)
            key = batch.column(self._key)
            bounds.append((key[0].as_py(), key[-1].as_py()))

    def seal(self) -> None:
        """End writing; from here on ranges can be read."""
        for writer in self._writers.values():
            writer.close()

    def read(self, low: int, high: int) -> pl.DataFrame | None:
        """All rows with low <= key < high, in no particular order; None where there is none."""
        frames = []
        for path, bounds in zip(self._paths, self._bounds, strict=True):
            wanted = [i for i, (first, last) in enumerate(bounds) if last >= low and first < high]
            if not wanted:
                continue
            reader = pa.ipc.open_file(pa.memory_map(str(path)))
            for i in wanted:
                batch = reader.get_batch(i)
                key = batch.column(self._key).to_numpy()
                start, end = key.searchsorted((low, high))
                if start < end:
                    frames.append(pl.DataFrame(batch.slice(start, end - start)))
        return pl.concat(frames, how="diagonal_relaxed", rechunk=True) if frames else None

    def remove(self) -> None:
        """Close and delete the files."""
        self.seal()
        for path in self._paths:
            path.unlink(missing_ok=True)
