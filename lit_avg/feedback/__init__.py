"""The LMM's log-probs of the right answer at each granularity: computed, stored beside runs, read back."""
