"""The names that a test writes and a study reads: of policies, in `result.json` and `outcomes.csv`.

Studies know no training code, and training none of them; what both have to call by one name stands here.
"""

ROUTER, RANDOM, ORACLE = "router", "random", "oracle"
"""Names of policies: the router's own choice, a random one, and the one that knows the answers."""

FIXED, COARSEST_WITHIN = "fixed ", "coarsest within"
"""How the names of policies begin that always take one level, and of the router's coarser choices."""
