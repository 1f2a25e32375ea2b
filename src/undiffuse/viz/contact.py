"""The contact sheet of a data set: its pictures as training will see them, a row for each class."""

import numpy as np
import torch
from matplotlib.figure import Figure

from undiffuse import images, rng
from undiffuse.data.dataset import Dataset
from undiffuse.viz.strips import sample_grid

CLASS_ROWS, ACROSS = 24, 12  # classes, and pictures of each


def contact_sheet(data: Dataset) -> Figure:
    """Train pictures chosen at random, the same ones every time: of each class, of at most 24 classes, or of all."""
    rows, names = [], []
    for index in range(max(1, min(len(data.class_names), CLASS_ROWS))):
        own = (data.train.labels == index).nonzero()[:, 0].numpy() if data.class_names else np.arange(len(data.train))
        most = ACROSS if data.class_names else ACROSS * 4
        chosen = own[np.sort(rng.permutation(len(own), 0, "contact", index)[:most])]
        rows.append(chosen)
        names += [data.class_names[index] if data.class_names else f"row {i // ACROSS + 1}" for i in range(len(chosen))]
    shown = images.to_hwc(data.train.chosen(torch.from_numpy(np.concatenate(rows))).images())
    return sample_grid(shown, names, "As training will see them")
