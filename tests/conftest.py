"""What every test shares."""

import os

from hypothesis import settings

# Tests run two at a time on two cores; more threads than that only wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# How long an example takes says more about what else the machine does than about the code.
settings.register_profile("cxml", deadline=None)
settings.load_profile("cxml")
