"""The annotator's side of doselabel: a napari plugin and, without Qt, its client and session."""
