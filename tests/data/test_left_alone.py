"""A preparation, and a command, leave the process as they found it."""

import logging
import os
import signal
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import animation, saved, turned
from PIL import Image, ImageFile

from made import files, pictures, png, written
from undiffuse.cli import main
from undiffuse.data import decode
from undiffuse.data.check import check_data
from undiffuse.data.prepare import dataset
from undiffuse.data.spec import DataSpec


def state() -> dict[str, object]:
    """What belongs to the whole process and a reader of files may be tempted to change."""
    return {
        "filters": list(warnings.filters),
        "showwarning": warnings.showwarning,
        "levels": {name: logging.getLogger(name).level for name in ("", "PIL", "datasets", "huggingface_hub", "httpx")},
        "signals": [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM)],
        "environment": dict(os.environ),
        "folder": Path.cwd(),
        "path": list(sys.path),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "type": torch.get_default_dtype(),
        "draws": torch.get_rng_state().tolist(),
        "numpy draws": np.random.get_state()[1].tolist(),  # noqa: NPY002  (what others may use)
        "numpy errors": np.geterr(),
        "numpy print": np.get_printoptions(),
        "pillow": (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES, dict(Image.registered_extensions())),
        "recursion": sys.getrecursionlimit(),
        "streams": [(stream, getattr(stream, "errors", None)) for stream in (sys.stdout, sys.stderr)],
    }


@pytest.fixture
def several(tmp_path):
    """Pictures of which Pillow warns, so many that several threads decode them."""
    odd = {
        f"cat/{i}.png": saved(Image.new("P", (8, 8), i), "PNG", transparency=bytes([0, 128, 255])) for i in range(40)
    }
    odd |= {"dog/a.gif": animation("GIF"), "dog/b.jpg": turned(6), "dog/c.png": png(pictures(1)[0])[:60]}
    Image.init()  # the list of formats is Pillow's own, and filled when it is first asked
    return written(tmp_path / "several", odd | {f"dog/{name[4:]}": data for name, data in files(600).items()})


def test_a_preparation(several):
    before = state()
    dataset(DataSpec(str(several), size=(8, 8), bad="skip"))
    check_data(DataSpec(str(several), size=(8, 8)))
    assert state() == before
    assert decode._quiet._inside == 0


def test_a_failed_preparation(several):
    before = state()
    with pytest.raises(ValueError, match="cannot be used"):
        dataset(DataSpec(str(several), size=(8, 8)))
    with pytest.raises(KeyboardInterrupt):
        dataset(DataSpec(str(several), size=(9, 9)), interrupted)
    assert state() == before


def interrupted(items, total, what):
    for count, item in enumerate(items):
        if count == 300:
            raise KeyboardInterrupt
        yield item


def test_a_hub_data_set(tmp_path):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [{"bytes": png(x), "path": None} for x in pictures(6)], "label": [0, 1] * 3}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    table = datasets.Dataset.from_dict(rows, features=features)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table.to_parquet(tmp_path / "train-00000-of-00001.parquet")
        dataset(DataSpec(str(tmp_path)))  # what the library itself changes when it is first used is not ours
        before, bars = state(), datasets.are_progress_bars_disabled()
        dataset(DataSpec(str(tmp_path), size=(4, 4)))
        assert state() == before and datasets.are_progress_bars_disabled() == bars


def test_a_warning_is_heard_after_the_first_preparation(several):
    dataset(DataSpec(str(several), size=(8, 8), bad="skip"))
    with pytest.warns(UserWarning, match="a warning of the user's own"):
        warnings.warn("a warning of the user's own", UserWarning, stacklevel=1)


@pytest.mark.parametrize(
    "arguments", [["check", "{}"], ["check", "{}", "--set", "data.bad=skip", "--set", "data.size=8"], ["x"]]
)
def test_a_command(several, arguments, capsys):
    before = state()
    main([part.format(several) for part in arguments])
    assert state() == before


def test_loading_and_sampling_draw_nothing_of_the_users(tiny_run):
    from undiffuse.pipeline import Pipeline

    before = torch.get_rng_state()
    Pipeline.load(tiny_run).sample(2, steps=2)
    assert torch.equal(torch.get_rng_state(), before)
