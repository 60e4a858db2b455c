"""doselabel: organ contours and patient-specific dosimetry on SPECT/CT, shared by server and napari plugin.

Importing this package is light: no torch, no Qt, no monailabel. Research use only, not a medical device.
"""

__version__ = "0.2.0"
