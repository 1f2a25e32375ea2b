"""What going back does to painted halves: the right half of held-out pictures by a bundled model.

Run: python benchmarks/inpainting.py [--seeds 2]       # digits, without a class
     python benchmarks/inpainting.py --seams [--n 256]  # garments, with and without their class

Of digits: how many are taken for their true class by the classifier that comes with undiffuse, and the Frechet distance
of its features from the real pictures, for stretches of several lengths in 10 and 50 steps: some minutes of two cores.
Of garments (Fashion-MNIST must be there): the mean jump of grey, 0..1, from the last column kept to the first painted.
"""

import argparse

import numpy as np
import torch

from undiffuse import Pipeline
from undiffuse.metrics.classifier import shipped_for
from undiffuse.metrics.frechet import FeatureSums, frechet_with_error
from undiffuse.pipeline import build, editing

CASES = [("unipc", 10), ("ddim", 10), ("ddim", 50)]
STRETCHES = (10, 5, 2, 1)


def seams(n: int) -> None:
    pipe = Pipeline.load("fashion-mnist").configured(sampler="unipc", steps=10, spacing="uniform")
    held_out = build.dataset(pipe.config).held_out.chosen(torch.arange(n))
    x, side = held_out.images(), pipe.shape[2] // 2
    known = torch.ones(*pipe.shape[1:], dtype=torch.bool)
    known[:, side:] = False

    def jump(made: torch.Tensor) -> str:
        each = (made[..., side] - made[..., side - 1]).abs().flatten(1).mean(1).double() / 2
        return f"{each.mean():.3f} ± {each.std() / n**0.5:.3f}"

    print(f"{n} garments; real: {jump(x)}\n\n| repeats | without a class | with its class |\n|---|---|---|")
    for repeats in (1, 5, 10):
        made = [editing.inpaint(pipe, x, known, label, 0, repeats=repeats) for label in (None, held_out.labels)]
        print(f"| {repeats} | " + " | ".join(map(jump, made)) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--seams", action="store_true")
    parser.add_argument("--n", type=int, default=256)
    given = parser.parse_args()
    seams(given.n) if given.seams else halves(range(given.seeds))


def halves(seeds: range) -> None:
    pipe = Pipeline.load("digits")
    held_out = build.dataset(pipe.config).held_out
    x, classifier = held_out.images(), shipped_for(pipe.shape, pipe.class_names)
    assert classifier is not None
    real = FeatureSums.of(classifier.features(x).double().numpy())
    known = torch.ones(8, 8, dtype=torch.bool)
    known[:, 4:] = False
    train = build.dataset(pipe.config).train.chosen(torch.arange(len(x))).images()
    features = FeatureSums.of(classifier.features(train).double().numpy())
    print(f"as many train pictures: {frechet_with_error(features, real)[0]:.2f}\n")
    print("| sampler | steps | repeats | stretch | taken for its class | distance |\n|---|---|---|---|---|---|")
    for name, steps in CASES:
        fixed = pipe.configured(sampler=name, steps=steps, spacing="uniform", eta=0.0)
        for repeats, stretch in [(1, 1), *((5, stretch) for stretch in STRETCHES)]:
            editing.JUMP = (stretch, 1)
            found = []
            for seed in seeds:
                made = editing.inpaint(fixed, x, known, None, seed, repeats=repeats)
                right = float((classifier.classes(made) == held_out.labels).double().mean())
                features = FeatureSums.of(classifier.features(made).double().numpy())
                found.append((right, frechet_with_error(features, real)[0]))
            right, distance = np.mean(found, 0)
            print(f"| {name} | {steps} | {repeats} | {stretch if repeats > 1 else ''} | {right:.3f} | {distance:.2f} |")


if __name__ == "__main__":
    main()
