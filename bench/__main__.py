"""python -m bench: the benchmark suite."""

import sys

from bench.suite import main

sys.exit(main())
