"""Decide which weights of a model are heads, and explain why."""
