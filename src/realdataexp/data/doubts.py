"""What in the counts of an import deserves a warning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from realdataexp.data import schema


def doubts_of(
    stats: dict[str, Any], unended: Sequence[str], faults: Sequence[str]
) -> list[dict[str, str]]:
    """Warnings of an import, as code and message.

    Args:
        stats: those of `kuairand.prepare`.
        unended: files that end without a line break.
        faults: totals that differ from the known ones.
    """
    doubts = []

    def doubt(code: str, message: str) -> None:
        doubts.append({"code": code, "message": message})

    for name in unended:
        doubt("unended_file", f"{name}: does not end with a line break; its last row may be cut")
    if faults:
        doubt(
            "other_totals",
            f"known totals of KuaiRand-{stats['version'].upper()}: {'; '.join(faults)}; a file "
            "may be incomplete: realdataexp download checks the archive",
        )
    if stats["duplicate_rows"]:
        doubt(
            "duplicate_rows",
            f"{stats['duplicate_rows']:,} of {stats['n_rows_read']:,} log rows repeat another row "
            f"exactly ({stats['duplicate_rows_across_logs']:,} of them a row of another log) and "
            "were dropped",
        )
    for name, target in stats["targets"].items():
        low, high = schema.LABEL_COLUMNS[name]
        if target["n_out_of_range"]:
            doubt(
                "out_of_range_values",
                f"{name}: {target['n_out_of_range']:,} values are outside {low:g} to {high:g} "
                "and count as missing",
            )
        if target["n_empty"]:
            doubt("empty_values", f"{name}: {target['n_empty']:,} rows have no value")
    for stem, n in stats["without_features"].items():
        who = "users" if stem == schema.USER_FEATURES else "videos"
        if n:
            doubt(
                f"{who}_without_features",
                f"{n:,} of {stats[f'n_{who}']:,} {who} in the log have no row in {stem}; "
                "their features are missing",
            )
    return doubts
