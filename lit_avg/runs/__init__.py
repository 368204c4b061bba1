"""A run's folder: whose it is, what it began from, and the hashes it has recorded."""
