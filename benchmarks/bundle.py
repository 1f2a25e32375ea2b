"""A trained run as a model that comes with the package: averaged weights in half precision, fitted times.

Run: python benchmarks/bundle.py RUN NAME        (writes src/undiffuse/models/NAME; its card, README.md, is by hand)
"""

import argparse
import json
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from undiffuse.files.checkpoint import digest_of
from undiffuse.pipeline import Pipeline
from undiffuse.pipeline.bundled import MODELS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("name")
    given = parser.parse_args()
    aside = MODELS / f".{given.name}"
    shutil.rmtree(aside, ignore_errors=True)
    pipe = Pipeline.load(given.run, device="cpu").fit()
    source = Path(pipe.config.data.source).name  # not where it lay on this machine
    replace(pipe, config=pipe.config.replaced({"data.source": source})).save(aside)
    (weights,) = aside.glob("checkpoints/*/ema.safetensors")
    halves = {name: value.to(torch.float16) for name, value in load_file(weights).items()}
    save_file(halves, weights)
    weights.chmod(0o644)
    state = weights.with_name("state.json")
    state.write_text(
        json.dumps(json.loads(state.read_text()) | {"digests": {weights.name: digest_of(weights)}}, indent=1)
    )
    shutil.rmtree(aside / "samples")
    final = MODELS / given.name
    card = final / "README.md"
    if card.exists():
        shutil.copy(card, aside / "README.md")
    shutil.rmtree(final, ignore_errors=True)
    aside.rename(final)
    print(f"{final}: {sum(path.stat().st_size for path in final.rglob('*') if path.is_file()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
