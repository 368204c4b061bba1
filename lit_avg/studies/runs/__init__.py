"""The runs that a study comes to, where each lives, and how far it is."""
