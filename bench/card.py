"""The tables of docs/scorecard.md, from a score card's folder.

    realdataexp score weighting --option model=logistic --out results/card
    python bench/card.py results/card

Prints them as Markdown: every design over all questions, its bias at each, and what has no answer.
"""

from __future__ import annotations

import sys
from pathlib import Path

from realdataexp.report.scores import Answer, Card, headline, missing, standings
from realdataexp.report.table import Table


def markdown(table: Table) -> list[str]:
    """A table of the report as Markdown."""
    columns = [table.first, *(column.name for column in table.columns)]
    lines = ["| " + " | ".join(columns) + " |", "|---|" + "---:|" * (len(columns) - 1)]
    for row in table.rows:
        cells = [row.name, *(str(cell.shown) for cell in row.cells)]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def cell(x: Answer) -> str:
    """A bias in percent of the effect with its error, bold where statistically significant."""
    if x.bias_percent is None:
        return "-"
    text = f"{x.bias_percent:+.1f} ± {x.bias_mc_se_percent or 0.0:.1f}".replace("-", "−")
    return f"**{text}**" if x.verdict in ("biased", "small") else text


def by_question(card: Card) -> list[str]:
    """Biases: a row for each question, a column for each design."""
    lines = [
        "| question | " + " | ".join(card.designs) + " |",
        "|---|" + "---:|" * len(card.designs),
    ]
    for question in card.questions:
        own = [cell(x) for x in card.rows if x.question == question]
        lines.append(f"| {question} | " + " | ".join(own) + " |")
    return lines


def main() -> None:
    card = Card.read(Path(sys.argv[1]))
    lines = [*headline(card), "", *markdown(standings(card)), "", *by_question(card)]
    if (table := missing(card)) is not None:
        lines += ["", *markdown(table)]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
