"""The verbs of `lit-avg`, a file each, loaded when one is called."""
