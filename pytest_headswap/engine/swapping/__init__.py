"""Plan, resize or replace, initialise, verify, undo."""
