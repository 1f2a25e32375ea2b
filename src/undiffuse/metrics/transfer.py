"""Train on generated, test on real: how much of the classes a classifier can learn from samples alone."""

from collections.abc import Callable

import numpy as np
import torch

from undiffuse.errors import UndiffuseError
from undiffuse.images import to_levels
from undiffuse.shapes import Float, Images, Int64, Labels, Tensor


def svc(images: Images, labels: Labels, levels: int) -> Callable[[Tensor], Tensor]:
    """A support vector classifier on pictures scaled to 0..16, trained on these: images -> int64 labels.

    gamma = 0.064 / number of pixels: scikit-learn's own choice for its digits, 0.001, carried over to other sizes.
    """
    from sklearn.svm import SVC

    if len(np.unique(labels)) < 2:
        raise UndiffuseError("a classifier, as of train on generated, test on real, needs at least two classes")
    classifier = SVC(gamma=0.064 / images[0].numel()).fit(_inputs(images, levels), labels.numpy())
    return lambda x: torch.from_numpy(classifier.predict(_inputs(x, levels)))


def svc_accuracy(
    train: tuple[Images, Labels], test: tuple[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], levels: int
) -> float:
    """Accuracy in [0, 1] on `test` of the support vector classifier of `train`."""
    return float((svc(*train, levels)(test[0]) == test[1]).double().mean())


def binomial_stderr(accuracy: float, n: int) -> float:
    """sqrt(p (1 - p) / n): what the finite test set leaves open."""
    return float(np.sqrt(accuracy * (1 - accuracy) / n))


def _inputs(images: Images, levels: int) -> np.ndarray:
    """Rounded to the data's own grid, as a written picture would be, then 0..16."""
    return to_levels(images, levels).flatten(1).double().numpy() * (16 / (levels - 1))
