"""Swap a head: plan, resize or replace, initialise, verify, undo."""
