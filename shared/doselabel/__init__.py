"""doselabel: organ contours and patient-specific dosimetry on SPECT/CT, shared by server and napari plugin.

Importing this package is light: no torch, no Qt, no monailabel. Research use only, not a medical device.
"""

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
"""Before NumPy is loaded: our matrices are small, and threads that share one wait for each other. On a busy machine
that made a dose last half as long again."""

__version__ = "0.2.0"
