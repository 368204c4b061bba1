"""Adaptive visual granularity for LLaVA-NeXT: scaler, router, four training stages and the studies on them."""
