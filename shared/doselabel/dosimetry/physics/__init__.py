"""What holds for every patient: radial dose-point kernels, voxel S-values, spheres. Knows no study."""
