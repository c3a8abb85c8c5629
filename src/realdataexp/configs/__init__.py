"""The configs that come with the package; imports nothing, so that `--help` can list them."""

from pathlib import Path

BUILT_IN_DIR = Path(__file__).parent
# Those that are another one with changes: Tables 1 and 3 of arXiv 2310.17496 vary p.
VARIANTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "si2023-aa": ("si2023", ("experiment.aa=true",)),
    "si2023-p20": ("si2023", ("experiment.p_treatment=0.2",)),
}


def built_in_names() -> tuple[str, ...]:
    """The names of the configs that come with the package."""
    return tuple(sorted({*(path.stem for path in BUILT_IN_DIR.glob("*.yaml")), *VARIANTS}))
