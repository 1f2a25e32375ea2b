"""Other people's measures, for comparison, without torchvision, which the functions of features do not use."""

import sys
import types
from importlib import import_module
from importlib.util import find_spec
from unittest.mock import MagicMock

import pytest


def fidelity(name: str):
    """torch_fidelity.NAME alone."""
    with pytest.MonkeyPatch.context() as patch:
        _alone(patch)
        patch.setitem(sys.modules, "torch_fidelity.utils", MagicMock())
        return import_module(f"torch_fidelity.{name}")


def torchmetrics(name: str):
    """torchmetrics.NAME; it imports torch-fidelity where that is installed."""
    if find_spec("torchmetrics") is None:
        pytest.skip("needs torchmetrics")
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("torch_fidelity") is not None:
            _alone(patch)
        return import_module(f"torchmetrics.{name}")


def _alone(patch) -> None:
    """The package as an empty one whose modules can be imported one by one."""
    if "torch_fidelity" in sys.modules:
        return
    spec = find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("needs torch-fidelity")
    alone = types.ModuleType("torch_fidelity")
    alone.__path__, alone.__spec__ = list(spec.submodule_search_locations), spec
    patch.setitem(sys.modules, "torch_fidelity", alone)
