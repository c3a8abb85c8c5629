"""A run: from a config to a folder of results."""
