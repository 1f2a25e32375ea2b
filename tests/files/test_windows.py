"""What differs on Windows, played through here by telling the code that it is there."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from undiffuse.errors import UsageError
from undiffuse.files.writing import put_text, sync, whole
from undiffuse.processes.lock import alone

WINDOWS = SimpleNamespace(platform="win32")


@pytest.fixture(autouse=True)
def windows(monkeypatch):
    for module in ("undiffuse.files.writing", "undiffuse.processes.lock"):
        monkeypatch.setattr(f"{module}.sys", WINDOWS)


def test_a_folder_is_claimed_by_one_command(tmp_path):
    folder = tmp_path / "run"
    with alone(folder) as claim:
        claim()
        with alone(folder) as other, pytest.raises(UsageError, match="another command is writing into it"):
            other()
    with alone(folder) as claim:
        claim()  # the first is gone


def test_folders_are_not_synced_and_files_are_opened_for_writing(tmp_path, monkeypatch):
    """Windows opens no folders and syncs no file that is open for reading alone."""
    opened = []
    real = os.open

    def watched(path, flags, *rest):
        assert not Path(path).is_dir(), "Windows cannot open a folder"
        opened.append(flags & os.O_RDWR)
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", watched)
    with whole(tmp_path / "a.txt") as aside:
        put_text(aside, "a\n")
    sync(tmp_path)
    assert (tmp_path / "a.txt").read_bytes() == b"a\n"
    assert opened and all(opened)
