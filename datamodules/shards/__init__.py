"""Samples in tar files: where these lie, how they are fetched and checked, and where in them each sample is."""
