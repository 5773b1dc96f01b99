"""Tests for pytest-trio: each carries `@pytest.mark.trio`, none runs on another backend."""
