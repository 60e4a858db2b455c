"""What the server can be asked for. Each task translates a request into one call of `doselabel`."""
