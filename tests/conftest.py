"""Property tests draw the same examples on every run and know no deadline: the machine is shared."""

import shutil
from pathlib import Path

import pytest
from hypothesis import settings

import tiny
from undiffuse.files import cache

settings.register_profile("undiffuse", derandomize=True, deadline=None, max_examples=60)
settings.load_profile("undiffuse")


@pytest.fixture(scope="session", autouse=True)
def fresh_statistics(tmp_path_factory):
    """Cached features of real images and samples are this session's: those of yesterday's code prove nothing about
    today's."""
    own, real = tmp_path_factory.mktemp("cache"), cache.folder

    def folder(kind: str = "") -> Path:
        return own / kind if kind in ("samples", "statistics") else real(kind)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "folder", folder)
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """A finished run folder of six steps with a checkpoint at 2, 4 and 6. To be read only."""
    return tiny.trained(tmp_path_factory.mktemp("tiny") / "run")


@pytest.fixture
def run_copy(tiny_run, tmp_path) -> Path:
    """The same, to be broken."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture(scope="session")
def tiny_pipe(tiny_run):
    """The model of that run."""
    from undiffuse.pipeline import Pipeline

    return Pipeline.load(tiny_run)


@pytest.fixture
def cheap(tiny_pipe):
    """A model whose images are patterns, drawn without a network."""
    from drawn import Cheap

    pipe = tiny_pipe.configured(steps=2)
    return Cheap(pipe.config, pipe.denoiser, pipe.device)
