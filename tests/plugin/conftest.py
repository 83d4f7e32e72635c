"""Fixtures for tests that run pytest inside pytest."""

from __future__ import annotations

from tests.projects import _warm, builds, extend_conftest, journal, project

__all__ = ["_warm", "builds", "extend_conftest", "journal", "project"]
