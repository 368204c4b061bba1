"""Doing the runs of a plan: in processes of this machine, or as jobs of SLURM."""
