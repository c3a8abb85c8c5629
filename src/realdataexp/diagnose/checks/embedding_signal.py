"""Whether items' vectors tell what comes next.

Norms and spreads look normal for any vectors, those of a seeded generator too. So the mean cosine
of held-out pairs in a row is compared with 200 permutations of which item has which vector: z is
about standard normal for vectors that were drawn, whatever their distribution, and beyond 4 in
fewer than 1 of 10,000 of them. Where a mean cosine of 0.1 would not reach that, as few questions
or items tell little, the check cannot tell.
"""

from __future__ import annotations

from dataclasses import replace

from realdataexp.diagnose.asked import recommended_of, some
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject
from realdataexp.sequences.vectors import neighbours_cosine

_N_QUESTIONS = 2000
_LEAST_Z, _MATTERS = 4.0, 0.1


def check(subject: Subject, seed: int) -> Measured:
    """Compare the cosine of held-out neighbours with that of permuted items."""
    recommended = recommended_of(subject, "vector_VD")
    assert recommended.vector_VD is not None
    split = recommended.split
    asked = replace(split, test=some(split.test, _N_QUESTIONS, seed))
    cosine, chance, spread = neighbours_cosine(asked, recommended.vector_VD)
    z = (cosine - chance) / max(spread, 1e-12)
    if z < _LEAST_Z and _LEAST_Z * spread > _MATTERS:
        raise CannotTell(
            f"what is missing: questions or items; of {len(asked.test):,} questions a mean cosine "
            f"that is larger than by chance by {_MATTERS} would not stand out"
        )
    return Measured(
        z < _LEAST_Z, z, _LEAST_Z,
        f"the mean cosine of held-out items in a row is {cosine:.3f}, {chance:.3f} by chance "
        f"(z = {z:.1f})",
        "these vectors know nothing of what comes next: make them anew, of what is trained on, "
        "and look whether they are matched with the right items",
    )  # fmt: skip
