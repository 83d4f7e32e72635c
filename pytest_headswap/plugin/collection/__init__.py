"""Zoos, models and checks as nodes of pytest, and what their reports say."""
