"""Judging answers: outcomes, metrics, and how much accuracy may be given for fewer tokens."""
