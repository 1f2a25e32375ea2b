"""torch.compile where it is wanted, torch's own eager mode where it cannot be had."""

import warnings
from typing import Any

from torch import nn

from undiffuse.nn.native.library import SlowWarning


def compiled(network: nn.Module) -> None:
    """torch.compile the network in place: names in its state dict stay. The first call compiles (a minute or so).

    If that call fails in the compiler, one SlowWarning says why and everything goes on without it. Results differ from
    the eager ones by rounding. Compiled code is cached on disk by torch (TORCHINDUCTOR_CACHE_DIR).
    """
    network.compile()
    network._compiled_call_impl = _Careful(network, network._compiled_call_impl)


class _Careful:
    """The compiled call; after a failure of the compiler, the network's own."""

    def __init__(self, network: nn.Module, call: Any) -> None:
        self.network, self.call = network, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException

        try:
            return self.call(*args, **kwargs)
        except TorchDynamoException as trouble:
            reason = next(iter(str(trouble).strip().splitlines()), type(trouble).__name__)
            warnings.warn(f"torch.compile failed, going on without it: {reason}", SlowWarning, stacklevel=2)
            self.network._compiled_call_impl = None
            return self.network(*args, **kwargs)
