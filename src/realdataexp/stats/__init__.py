"""Statistics: tables in, tables out. Nothing here knows how the tables were made.

``analyze`` takes one's own A/B table; a run's tables go through the same methods.
"""

from realdataexp.stats.analysis import ANALYSIS_SCHEMA, analyze

__all__ = ["ANALYSIS_SCHEMA", "analyze"]
