"""MONAI without what it only offers to use: two thirds of what importing it costs. Imports nothing large itself."""

from __future__ import annotations

import sys

OFFERED = (
    "IPython",
    "gdown",
    "ignite",
    "matplotlib",
    "mlflow",
    "pandas",
    "scipy.optimize",
    "scipy.signal",
    "skimage",
    "sklearn",
    "tifffile",
    "torch.utils.tensorboard",
    "torchvision",
    "transformers",
)
"""What ``import monai`` imports when it is installed, and does without when it is not."""


def import_monai() -> None:
    """Import MONAI as if these libraries were not installed; whoever needs one imports it afterwards as ever.

    Any import of a part of MONAI imports all of it. Neither our scores nor MONAI Label use what needs these libraries.
    """
    hidden = [name for name in OFFERED if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: "there is none", says Python's import
    try:
        import monai  # noqa: F401
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
