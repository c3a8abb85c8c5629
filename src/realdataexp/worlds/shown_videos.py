"""Codes and vectors of a log's videos, made of what was known before the test alone.

Axes: V videos, U users, L codes of a video, D numbers of a vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import polars as pl

from realdataexp.data import log
from realdataexp.errors import Warnings
from realdataexp.sequences.histories import Histories, Questions, Split
from realdataexp.sequences.item_options import ItemsConfig
from realdataexp.sequences.items import Items
from realdataexp.sequences.shown import shown_in_loop


def shown_videos(
    options: ItemsConfig,
    data: log.DataSet,
    splits: Sequence[log.Split],
    seed: int,
    warnings: Warnings,
    at: Callable[[str], Path],
) -> dict[str, np.ndarray]:
    """The tables ``codes`` (int32 V, L) and ``vector`` (float32 V, D), as far as asked for.

    Histories are the rows that the first start pretrains on and none replays; ``at`` says where a
    path of the options is.

    Raises:
        InputError: they cannot be made.
    """
    parts = data.videos
    videos = parts if isinstance(parts, pl.DataFrame) else pl.concat(parts.blocks())
    items = Items(_names(videos), videos[:, 1:], "the videos' features")
    histories = Histories(data.log.video_N, data.log.offset_U1, _names(data.users), items.names)
    # such rows are a user's first
    end_U = np.minimum.reduce([splits[0].pretrain.end_U, *(x.replay.start_U for x in splits)])
    nobody = Questions(*np.zeros((2, 0), dtype=np.int64))
    split = Split(histories, end_U, nobody, nobody)
    return shown_in_loop(options, split, items, seed, warnings, at)


def _names(table: pl.DataFrame) -> list[str]:
    return table[table.columns[0]].cast(pl.String).to_list()
