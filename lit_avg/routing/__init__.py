"""Choosing a granularity: the router, what it hears, the policies that choose, and what the router learns from."""
