"""Prepared pictures go into a cache of the test's own."""

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": folder)
    return folder
