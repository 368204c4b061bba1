"""Data that fills a `lit_avg.batch.Batch`: one module per data set over a shared stream of shards."""
