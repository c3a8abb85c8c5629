"""The checks of a diagnosis, one a file: ``check(subject, seed) -> Measured``."""
