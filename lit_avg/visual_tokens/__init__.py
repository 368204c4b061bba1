"""Visual tokens: granularities, pooling to them, their order in a sequence, and how many there are."""
