"""Public data sets that `realdataexp download` fetches: a file each, and a line of the registry."""
