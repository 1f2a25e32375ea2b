"""What going back does to painted halves: the right half of all held-out digits by the bundled model, without a class.

Run: python benchmarks/inpainting.py [--seeds 2]
How many are taken for their true class by the classifier that comes with undiffuse, and the Frechet distance of its
features from the real pictures, for stretches of several lengths in 10 and 50 steps: some minutes of two cores.
"""

import argparse

import numpy as np
import torch

from undiffuse import Pipeline, build, editing
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.frechet import FeatureSums, frechet_with_error

CASES = [("unipc", 10), ("ddim", 10), ("ddim", 50)]
STRETCHES = (10, 5, 2, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    seeds = range(parser.parse_args().seeds)
    pipe = Pipeline.load("digits")
    held_out = build.dataset(pipe.config).held_out
    x, classifier = held_out.images(), shipped_for(pipe.shape, pipe.class_names)
    assert classifier is not None
    real = FeatureSums.of(classifier.features(x).double().numpy())
    known = torch.ones(8, 8, dtype=torch.bool)
    known[:, 4:] = False
    print("| sampler | steps | repeats | stretch | taken for its class | distance |\n|---|---|---|---|---|---|")
    for name, steps in CASES:
        fixed = pipe.configured(sampler=name, steps=steps, spacing="uniform", eta=0.0)
        for repeats, stretch in [(1, 1), *((5, stretch) for stretch in STRETCHES)]:
            editing.JUMP = (stretch, 1)
            found = []
            for seed in seeds:
                made = editing.inpaint(fixed, x, known, None, seed, repeats)
                right = float((classifier.classes(made) == held_out.labels).double().mean())
                features = FeatureSums.of(classifier.features(made).double().numpy())
                found.append((right, frechet_with_error(features, real)[0]))
            right, distance = np.mean(found, 0)
            print(f"| {name} | {steps} | {repeats} | {stretch if repeats > 1 else ''} | {right:.3f} | {distance:.2f} |")


if __name__ == "__main__":
    main()
