"""Decide which weights are heads, and say why."""
