"""What the annotator is working on: case, edits, recovery, measures. Knows no Qt, no napari and no HTTP details."""
