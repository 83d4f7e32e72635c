"""Plan a run: costs, shards, expected time, and the order for workers."""
