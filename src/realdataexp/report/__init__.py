"""What people see of a run, made from the files of its folder alone."""
