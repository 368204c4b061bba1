"""From a sample's bytes to what a model takes: its image in tiles, its conversation in tokens, batches of both."""
