"""What a run ran on, and for how long."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undiffuse import __version__
from undiffuse.files.reading import read_json


def describe(path: Path, seed: int, seconds: float) -> dict[str, Any]:
    """The content of environment.json; the seconds of earlier parts of a resumed run, as it says, are added."""
    return {
        "undiffuse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU",
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "seed": seed,
        "training_seconds": round(_seconds_before(path) + seconds, 1),
    }


def _seconds_before(path: Path) -> float:
    """0 if nobody can say."""
    try:
        return float(read_json(path)["training_seconds"])
    except (OSError, ValueError, LookupError, TypeError, OverflowError):
        return 0.0
