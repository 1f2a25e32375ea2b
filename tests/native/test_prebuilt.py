"""Kernels that come with the wheel: the right ones are taken and compute what they should, or they are left."""

import importlib.util
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from undiffuse.native import library, prebuilt

torch = pytest.importorskip("torch")  # whose OpenMP runtime they share
needs_gcc = pytest.mark.skipif(
    shutil.which("gcc") is None or library.numpy_random() is None or not prebuilt.processor_flags() >= {"avx2", "fma"},
    reason="no compiler, or no processor for it",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A copy of the sources with the lower level compiled, as tools/prebuild.py does it for the wheel."""
    folder = tmp_path_factory.mktemp("native")
    for path in [*prebuilt.C_FOLDER.glob("*.c"), *prebuilt.C_FOLDER.glob("*.h")]:
        shutil.copy(path, folder)
    spec = importlib.util.spec_from_file_location("prebuild", Path(__file__).parents[2] / "tools" / "prebuild.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prebuilt, "C_FOLDER", folder)
        patch.setattr(prebuilt, "LEVELS", {"x86-64-v3": prebuilt.LEVELS["x86-64-v3"]})
        tool.main()
    return folder


@needs_gcc
def test_it_is_found_loaded_and_draws_and_convolves_as_it_should(made, monkeypatch):
    monkeypatch.setattr(prebuilt, "C_FOLDER", made)
    monkeypatch.setattr(library, "compile_library", lambda: pytest.fail("compiled though there is one"))
    ready = library._open()
    assert prebuilt.draws_as_numpy(ready)
    x, weight = (torch.linspace(-1, 1, n).sin().contiguous() for n in (64 * 16, 16 * 16))
    out, work = torch.empty(64, 16), torch.empty(16 * 16)
    pointers = [z.data_ptr() for z in (x, weight)], [z.data_ptr() for z in (out, work)]
    ready.linear_forward(library.LinearShape(64, 16, 16), 1, *pointers[0], None, None, *pointers[1])
    torch.testing.assert_close(out, x.view(64, 16) @ weight.view(16, 16).T, atol=1e-5, rtol=1e-5)


@needs_gcc
def test_it_names_no_openmp_runtime(made):
    """Each build of torch calls its own by another name."""
    (path,) = (made / "prebuilt").glob("*.so")
    listed = subprocess.run(["objdump", "-p", path], capture_output=True, text=True, check=True).stdout
    assert "NEEDED" in listed and "gomp" not in listed


@needs_gcc
def test_of_other_sources_or_for_another_processor_it_is_not_taken(made, monkeypatch, tmp_path):
    monkeypatch.setattr(prebuilt, "C_FOLDER", made)
    assert prebuilt.find_library() is not None
    monkeypatch.setattr(prebuilt, "processor_flags", lambda: {"sse2"})
    assert prebuilt.find_library() is None
    monkeypatch.undo()
    changed = shutil.copytree(made, tmp_path / "changed")
    (changed / "linear.c").write_text("/* another */")
    monkeypatch.setattr(prebuilt, "C_FOLDER", changed)
    assert prebuilt.find_library() is None


def test_the_best_level_is_taken_that_the_processor_has(monkeypatch, tmp_path):
    monkeypatch.setattr(prebuilt, "C_FOLDER", tmp_path)
    (tmp_path / "prebuilt").mkdir()
    monkeypatch.setattr(prebuilt.platform, "machine", lambda: "x86_64")
    v4, v3 = prebuilt.LEVELS.values()
    for level in prebuilt.LEVELS:
        prebuilt.library_path(level).touch()
    for flags, level in (({*v3}, "x86-64-v3"), ({*v4, *v3}, "x86-64-v4"), ({*v4}, None), ({*v3[1:]}, None)):
        monkeypatch.setattr(prebuilt, "processor_flags", lambda flags=flags: flags)
        assert prebuilt.find_library() == (level and prebuilt.library_path(level))


@needs_gcc
def test_one_that_does_not_load_leaves_it_to_the_compiler(made, monkeypatch, tmp_path):
    broken = shutil.copytree(made, tmp_path / "broken")
    (path,) = (broken / "prebuilt").glob("*.so")
    path.write_bytes(b"no library")
    monkeypatch.setattr(prebuilt, "C_FOLDER", broken)
    assert "prebuilt" not in library._open()._name


@needs_gcc
def test_draws_of_another_numpy_are_left_to_this_one(made, monkeypatch):
    class Other(prebuilt.ctypes.CDLL):
        def __init__(self):
            """Of no file."""

        def normals(self, streams, count, each, out, threads):
            np.ctypeslib.as_array((prebuilt.ctypes.c_float * each).from_address(out))[:] = 0.5
            return 1

    assert not prebuilt.draws_as_numpy(Other())
    monkeypatch.setattr(prebuilt, "C_FOLDER", made)
    monkeypatch.setattr(prebuilt, "draws_as_numpy", lambda library: False)
    assert library._open().normals(None, 1, 1, None, 1) == 0
