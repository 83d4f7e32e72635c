"""Fixtures, the marker and `parametrize_with_checks`, for users' own tests."""
