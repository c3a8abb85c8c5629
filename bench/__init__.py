"""The benchmark suite: speed and memory beside what bounds them, measured in the same run."""
