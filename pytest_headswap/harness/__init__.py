"""Run checks on a model and return the results, without pytest."""
