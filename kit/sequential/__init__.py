"""Tests that decide as trials come in: pure arithmetic, above nothing but the errors."""
