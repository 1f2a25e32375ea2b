"""The optimiser's state as plain tensors, and back."""

from pathlib import Path

import torch

from undiffuse.errors import UndiffuseError
from undiffuse.files.checkpoint import Tensors, laid_like
from undiffuse.train.optimizers import ADAM


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The optimiser's moments and counters as a flat dictionary, 'parameter.name' -> tensor."""
    state = optimizer.state_dict()["state"]
    return {f"{index}.{name}": torch.as_tensor(value) for index, kept in state.items() for name, value in kept.items()}


def fill_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors, origin: Path) -> None:
    """The inverse of `optimizer_tensors`; learning rates are not state, they follow from the step."""
    moments = [(p, group.get("moments", ADAM)) for group in optimizer.param_groups for p in group["params"]]
    parameters = [parameter for parameter, _ in moments]
    wanted = {
        f"{index}.{name}": torch.Size() if name == "step" else parameter.shape
        for index, (parameter, names) in enumerate(moments)
        for name in names
    }
    if tensors and {key: value.shape for key, value in tensors.items()} != wanted:
        raise UndiffuseError(f"{origin}: optimizer.safetensors belongs to another network, or another optimiser")
    state: dict[int, Tensors] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = laid_like(value, parameters[int(index)]) if value.ndim else value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
