"""Doing the runs of a plan: a sweep that keeps their order, and launchers that do them, here or elsewhere."""
