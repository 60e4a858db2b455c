"""What the annotator sees. Views know Qt and emit signals; they know no server, no layers and no files."""
