"""Whether what is believed of a training is so: checks, one a file, and claims."""
