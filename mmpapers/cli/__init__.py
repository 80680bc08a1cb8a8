"""Command lines. Importing any of them makes torch's threads sleep while they wait, unless the environment says how.

By default waiting threads of OpenMP spin. On a machine with two cores and something else to do (a browser is enough), a
training step of a small network then takes 7.5 s instead of 0.25 s; on an idle machine the two are equal.
"""

import os

os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')  # read once, when torch is imported
