"""Whether what is believed of a training is so: checks, one a file, and claims.

A callable that makes a `Subject` lets them look at anybody's training; a check of one's own returns
`Measured`, or raises `CannotTell`.
"""

from realdataexp.diagnose.finding import Measured
from realdataexp.diagnose.subject import CannotTell, Recommended, Subject

__all__ = ["CannotTell", "Measured", "Recommended", "Subject"]
