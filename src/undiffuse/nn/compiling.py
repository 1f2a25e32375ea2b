"""torch.compile where it is wanted, torch's own eager mode where it cannot be had."""

import warnings

from torch import nn

from undiffuse.native.library import SlowWarning, kernels
from undiffuse.shapes import Tensor


def compile_network(network: nn.Module, *example: Tensor | None) -> None:
    """torch.compile the network in place: names in its state dict stay. Takes a minute or so, for the example call.

    Where that fails, forwards or (in training mode) backwards, one SlowWarning says why and the network is as before.
    On a CPU that has the fast kernels one SlowWarning says that compiled code does without them. Results differ from
    the eager ones by rounding. Compiled code is cached on disk by torch (TORCHINDUCTOR_CACHE_DIR).
    """
    if example[0] is not None and example[0].is_cpu and kernels() is not None:
        told = "torch.compile pays on GPUs: on this CPU compiled code does without the fast kernels and is slower"
        warnings.warn(told, SlowWarning, stacklevel=2)
    try:
        network.compile()
        out = network(*example)
        if network.training:
            out.sum().backward()
    except Exception as trouble:  # anything between Python and a C++ compiler can go wrong in there
        reason = next(iter(str(trouble).strip().splitlines()), "") or type(trouble).__name__
        warnings.warn(f"torch.compile failed, going on without it: {reason}", SlowWarning, stacklevel=2)
        network._compiled_call_impl = None
    network.zero_grad()
