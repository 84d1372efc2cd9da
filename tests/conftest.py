"""One thread each for the small sums of the tests: two would only wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
