"""Costs, shards, what a run has before it, and the order for workers."""
