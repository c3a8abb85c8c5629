"""What a log's own random exposures say: off-policy values, the natural experiment, support.

An estimator of an off-policy value is one file here and one line in the registry.
"""

from realdataexp.observe.base import CannotTell, Estimated, Estimator, Exposures, Terms, estimated

__all__ = ["CannotTell", "Estimated", "Estimator", "Exposures", "Terms", "estimated"]
