"""Fixtures with journals for the reports."""

from __future__ import annotations

from tests.journals import timm_folder, write

__all__ = ["timm_folder", "write"]
