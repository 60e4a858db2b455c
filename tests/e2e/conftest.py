"""The window and the small patients of the window's own tests."""

from tests.napari_plugin.conftest import libraries_first, make_patient, truth, window  # noqa: F401
