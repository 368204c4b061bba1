"""`lit-avg plan`: what fits, how long it takes and what it writes, before it is queued."""
