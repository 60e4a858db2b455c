"""The window and the small patients of the window's own tests."""

from tests.napari_plugin.conftest import make_patient, torch_first, truth, window  # noqa: F401
