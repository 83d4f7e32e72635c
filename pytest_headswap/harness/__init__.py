"""Run checks on a target and make results, without pytest."""
