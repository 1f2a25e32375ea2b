"""What the mix of classes alone costs: real train pictures of the emojis, as many of each class, as samples.

Run, beside the .tgz of the data: python docs/figures/mix.py
"""

import numpy as np

import undiffuse as ud
from undiffuse import rng
from undiffuse.evaluation.real import reference_data

EACH = 500  # of a class, with replacement


def main() -> None:
    data = reference_data(ud.Pipeline.load("emoji"), None)
    rows = []
    for index in range(len(data.class_names)):
        own = (data.train.labels == index).nonzero()[:, 0].numpy()
        rows.append(own[rng.fold(0, "mix", index).integers(0, len(own) - 1, (EACH,)).numpy()])
    chosen = np.concatenate(rows)
    x, y = data.train.images(chosen), data.train.labels[chosen]
    found = ud.evaluate_images(x, data, labels=y, metrics="frechet", features="pca").metrics["frechet"]
    print(f"{len(chosen)} real train pictures, {EACH} of each class: {found.value:.1f} ± {found.stderr:.1f}")
    print(f"as they come: {found.floor:.1f}")


if __name__ == "__main__":
    main()
