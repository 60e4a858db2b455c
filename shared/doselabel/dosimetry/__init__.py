"""From organ contours and SPECT to absorbed dose: nuclides, kernels, engines, curves, uncertainty, reports.

Nothing is imported here, so that a caller pays only for the part it uses; none of it needs torch or a server.
"""
