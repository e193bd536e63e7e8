"""Imported before numpy and PyTorch: one thread for each of their pools, and for our engine.

Tests run side by side. A pool with a thread for every processor, in each process, waits for the
others most of the time; so do the threads of an engine, at every sample. Tests of threads say how
many they want.
"""

import os

for _name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "WAVERNN_FAST_THREADS"):
    os.environ.setdefault(_name, "1")
