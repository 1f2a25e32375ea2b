"""Where things are kept, for users with and without a home."""

import pwd

import pytest

from undiffuse.data.sources import _places
from undiffuse.errors import UndiffuseError
from undiffuse.files import cache
from undiffuse.native import library


@pytest.fixture
def homeless(monkeypatch):
    """As `docker run -u 12345` has it: neither HOME nor an entry in the system's list of users."""

    def nobody(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", nobody)
    for name in ("HOME", "XDG_CACHE_HOME", "UNDIFFUSE_DATA"):
        monkeypatch.delenv(name, raising=False)


def test_the_cache_is_where_the_user_says(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache.folder() == tmp_path / ".cache" / "undiffuse"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
    assert cache.folder() == tmp_path / "mine" / "undiffuse"


def test_a_user_without_a_home_is_told_what_to_set(homeless, monkeypatch, tmp_path):
    with pytest.raises(UndiffuseError, match="no home folder to keep things in: set XDG_CACHE_HOME to a folder's path"):
        cache.folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "undiffuse"


def test_without_a_home_data_are_looked_for_elsewhere(homeless):
    assert [str(place) for place in _places("mnist")] == ["data/mnist", "/usr/share/datasets/mnist"]


def test_without_a_home_networks_run_on_torch_s_kernels(homeless):
    library._load.cache_clear()
    with pytest.warns(library.SlowWarning, match="set XDG_CACHE_HOME"):
        assert library._load() is None
    library._load.cache_clear()
