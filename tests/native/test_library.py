"""How the kernels are compiled, kept and refused: whatever goes wrong is one line, and networks run without them."""

import os
import warnings
from pathlib import Path

import pytest

from undiffuse.native import library

pytest.importorskip("torch")  # whose OpenMP runtime they share
pytestmark = pytest.mark.skipif(library.kernels() is None, reason="no C compiler")


def test_without_a_compiler_one_line_says_so(monkeypatch):
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    library._load.cache_clear()
    try:
        with pytest.warns(library.SlowWarning, match="no C compiler was found"):
            assert library.kernels() is None
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert library.kernels() is None  # said once
    finally:
        library._load.cache_clear()


def test_a_compiler_that_fails_is_quoted(monkeypatch, tmp_path):
    bad = tmp_path / "gcc"
    bad.write_text("#!/bin/sh\necho 'fatal error: omp.h: No such file' >&2\nexit 1\n")
    bad.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library.shutil, "which", lambda name: str(bad))
    with pytest.raises(RuntimeError, match=r"gcc failed with status 1: fatal error: omp\.h"):
        library.compile_library()


def in_scratch(tmp_path, monkeypatch) -> Path:
    """A cache of its own with a library in it; the compiler has what it makes, the user's own, ready."""
    ready = library.compile_library().read_bytes()
    monkeypatch.setattr(library, "_compile", lambda compiler, runtime, tuning, made: made.write_bytes(ready))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return library.compile_library()


@pytest.mark.parametrize("spoil", ["cut short", "junk", "empty", "no seal", "another library"])
def test_a_spoilt_library_is_never_loaded_but_made_again(tmp_path, monkeypatch, spoil):
    """Loading a file cut short would end the process by a bus error."""
    path = in_scratch(tmp_path, monkeypatch)
    whole = path.read_bytes()
    contents = {"cut short": whole[:20000], "junk": b"junk", "empty": b"", "another library": b"other"}
    path.write_bytes(contents.get(spoil, whole))
    if spoil == "no seal":
        path.with_suffix(".sha256").unlink()
    assert not library._sound(path)
    assert library._open().wino_vector() in (4, 8, 16)
    assert library._sound(path)


def test_a_library_without_our_functions_is_marked_to_be_made_again(tmp_path, monkeypatch):
    path = in_scratch(tmp_path, monkeypatch)
    path.write_bytes(library.openmp().read_bytes())  # a sound library of somebody else's
    library._seal(path).write_text(library._digest(path))
    with pytest.raises(RuntimeError, match="compiled again at the next start"):
        library._open()
    assert not library._sound(path)


def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    path = in_scratch(tmp_path, monkeypatch)
    path.parent.chmod(0o777)
    with pytest.raises(RuntimeError, match="can be written by, another user"):
        library.compile_library()


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("head -c 4000 /dev/urandom >&2; exit 1", "failed with status 1"),
        ("printf 'one\\ntwo\\nthree' >&2; exit 3", "failed with status 3: one two three"),
        ("exit 4", "failed with status 4: no message"),
        ("exit 0", "failed with status 0: no message"),
    ],
)
def test_whatever_a_compiler_does_is_one_line(tmp_path, monkeypatch, script, words):
    bad = tmp_path / "gcc"
    bad.write_text(f"#!/bin/bash\n{script}\n")
    bad.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(library.shutil, "which", lambda name: str(bad))
    library._load.cache_clear()
    try:
        with pytest.warns(library.SlowWarning) as caught:
            assert library.kernels() is None
    finally:
        library._load.cache_clear()
    (warning,) = caught
    assert words in str(warning.message)
    assert "\n" not in str(warning.message)


def test_of_the_libraries_that_were_compiled_the_newest_stay(tmp_path, monkeypatch):
    made = in_scratch(tmp_path, monkeypatch)
    for age in range(6):
        old = made.with_name(f"kernels-{age}.so")
        for path in (old, library._seal(old)):
            path.write_bytes(b"")
            os.utime(path, (1000 - age, 1000 - age))
    library._forget_old(made.parent)
    assert {path.name for path in made.parent.glob("kernels-*")} == {
        *(made.name, library._seal(made).name),
        *(f"kernels-{age}.{suffix}" for age in range(3) for suffix in ("so", "sha256")),
    }
