"""How each measure depends on the number of samples, on real images in their place.

Run: python benchmarks/estimates.py [--data fashion-mnist] [--features classifier] [--most 10000] [--draws 8]
      [--metrics frechet,kid]

Train images stand for samples of a perfect model (so memorisation, of which they are the very case, is left out). Each
row takes disjoint draws of n of them, at most 8 by default. A cell is the mean of their estimates ± their spread
(standard deviation), and in brackets the mean of the standard errors that were printed with them.
"""

import argparse
import time
import warnings
from collections.abc import Sequence

import numpy as np

from undiffuse import rng
from undiffuse.data.prepare import load_data
from undiffuse.evaluation import measures
from undiffuse.evaluation.real import MeasureWarning, RealImages
from undiffuse.evaluation.samples import Samples

NUMBERS = (100, 250, 500, 1000, 2500, 5000, 10_000)
NAMES = ("frechet", "kid", "inception_score", "precision", "recall", "density", "coverage")


def cell(name: str, sets: Sequence[Samples], real: RealImages) -> str:
    """mean ± spread (mean of the errors)."""
    found = [measures.MEASURES[name]([one], real) for one in sets]
    values = np.array([one.value for one in found])
    errors = [one.stderr for one in found if one.stderr is not None]
    spread = f" ± {values.std(ddof=1):.2g}" if len(sets) > 1 else ""
    return f"{values.mean():.4g}{spread}" + (f" ({np.mean(errors):.2g})" if errors else "")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--features", default="classifier")
    parser.add_argument("--most", type=int, default=NUMBERS[-1])
    parser.add_argument("--draws", type=int, default=8)
    parser.add_argument("--metrics", type=lambda text: text.split(","), default=NAMES)
    given = parser.parse_args()
    warnings.simplefilter("ignore", MeasureWarning)
    real = RealImages.of(load_data(given.data), given.features)
    train = real.data.train
    order = rng.permutation(len(train), 0, "estimates")
    print("| n | draws | " + " | ".join(given.metrics) + " | seconds a draw |\n|" + "---|" * (len(given.metrics) + 3))
    for n in (n for n in NUMBERS if n <= min(len(train), given.most)):
        draws, began = min(given.draws, len(train) // n), time.perf_counter()
        sets = [Samples(train.images(np.sort(order[i * n : (i + 1) * n])), None) for i in range(draws)]
        cells = [cell(name, sets, real) for name in given.metrics]
        seconds = (time.perf_counter() - began) / draws
        print(f"| {n} | {draws} | " + " | ".join(cells) + f" | {seconds:.1f} |", flush=True)


if __name__ == "__main__":
    main()
