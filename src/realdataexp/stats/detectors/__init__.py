"""Detectors: does a test suffer from training interference, as one can see it from inside?

A detector sees the tables of a test and not the truth. Each is one file and one line in the
registry: a function of ``base.DetectorTables``.
"""
