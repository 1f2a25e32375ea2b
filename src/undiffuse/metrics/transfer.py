"""Train on generated, test on real: how much of the classes a classifier can learn from samples alone."""

import numpy as np

from undiffuse.errors import UndiffuseError
from undiffuse.images import to_levels
from undiffuse.shapes import Float, Images, Int64, Labels, Tensor


def svc_accuracy(
    train: tuple[Images, Labels], test: tuple[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], levels: int
) -> float:
    """Accuracy in [0, 1] of a support vector classifier on pictures scaled to 0..16.

    gamma = 0.064 / number of pixels: scikit-learn's own choice for its digits, 0.001, carried over to other sizes.
    """
    from sklearn.svm import SVC

    if len(np.unique(train[1])) < 2:
        raise UndiffuseError("train on generated, test on real needs samples of at least two classes")
    classifier = SVC(gamma=0.064 / train[0][0].numel()).fit(_inputs(train[0], levels), train[1].numpy())
    return float((classifier.predict(_inputs(test[0], levels)) == test[1].numpy()).mean())


def binomial_stderr(accuracy: float, n: int) -> float:
    """sqrt(p (1 - p) / n): what the finite test set leaves open."""
    return float(np.sqrt(accuracy * (1 - accuracy) / n))


def _inputs(images: Images, levels: int) -> np.ndarray:
    """Rounded to the data's own grid, as a written picture would be, then 0..16."""
    return to_levels(images, levels).flatten(1).double().numpy() * (16 / (levels - 1))
