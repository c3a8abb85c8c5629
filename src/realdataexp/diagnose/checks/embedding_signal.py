"""Whether items' vectors tell what comes next.

Norms and spreads look normal for any vectors, those of a seeded generator too. So it is asked how
well a linear map, fitted on pairs in a row in training, tells the second item of held-out pairs
(what follows need not be alike), against 200 permutations of which item has which vector. z is
about standard normal for vectors that were drawn, whatever their distribution: it is beyond 4 for
fewer than 1 of 10,000 of them. Of vectors that know what comes next z grows with the root of the
number of held-out pairs, and of so few that it may be below 4, fewer than 500, noise cannot be told
from them: below 4 the check then cannot tell, and above it still says that they know.
"""

from __future__ import annotations

from realdataexp.diagnose.asked import recommended_of
from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Subject
from realdataexp.sequences.vectors import neighbours_signal

_LEAST_Z, _FEW = 4.0, 500


def check(subject: Subject, seed: int) -> Measured:
    """Compare how vectors tell held-out neighbours with how permuted ones do."""
    recommended = recommended_of(subject, "vector_VD")
    assert recommended.vector_VD is not None
    split = recommended.split
    cosine, z = neighbours_signal(split, recommended.vector_VD, seed)
    n = int((~split.is_train_N).sum())
    if z < _LEAST_Z and n < _FEW:
        raise CannotTell(f"what is missing: held-out pairs; {n:,} tell too little, {_FEW} would do")
    return Measured(
        z < _LEAST_Z, z, _LEAST_Z,
        f"vectors tell the next item of held-out pairs better than permuted ones with z = {z:.1f}; "
        f"its mean cosine is {cosine:.3f}",
        "these vectors know nothing of what comes next: make them anew, of what is trained on, "
        "and look whether they are matched with the right items",
    )  # fmt: skip
