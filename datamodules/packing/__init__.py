"""`lit-avg shard`: from a download to shards. Loads neither torch nor transformers."""
