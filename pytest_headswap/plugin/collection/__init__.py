"""Zoos, models and checks as pytest nodes, and the contents of their reports."""
