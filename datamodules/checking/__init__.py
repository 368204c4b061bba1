"""`lit-avg data check`: are the shards whole, and what is in them?"""
