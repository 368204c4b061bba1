"""What a run will take, before it is queued: memory, time, disk."""
