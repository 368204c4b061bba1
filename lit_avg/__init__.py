"""Adaptive visual granularity for LLaVA-NeXT: the scaler, the router, the four training stages and the studies on them."""
