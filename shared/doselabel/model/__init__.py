"""The 2.5D Mask R-CNN: network, slices, training, prediction, evaluation, checkpoints. Knows no server and no dose.

Importing this package is light; its modules import torch.
"""
