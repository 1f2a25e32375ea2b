"""Prepared pictures go into a cache of the test's own."""

import pytest

from undiffuse.data import cache as files


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(files, "cache_folder", lambda: folder)
    return folder
