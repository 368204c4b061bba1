"""A study as its file describes it: rows, axes, overlays, columns, and what decides a result."""
