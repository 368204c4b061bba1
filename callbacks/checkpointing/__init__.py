"""The one checkpoint of a run: when it is written, what it holds to go on exactly, and what a preempted job does."""
