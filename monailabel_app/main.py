"""What MONAI Label looks for in an app folder. The class lives in the package so that workers can import it."""

from monailabel_app.app import DoselabelApp  # noqa: F401
