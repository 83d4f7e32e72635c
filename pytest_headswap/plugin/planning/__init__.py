"""Plan a run: which models cost most, the shards of several machines, and the order for xdist workers."""
