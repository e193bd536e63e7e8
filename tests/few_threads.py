"""Imported before numpy and PyTorch: one thread for each of their pools.

Tests run side by side. A pool with a thread for every processor, in each process, waits for the
others most of the time.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
