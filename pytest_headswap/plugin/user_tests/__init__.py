"""Fixtures, the marker and `parametrize_with_checks`, for the tests of users."""
