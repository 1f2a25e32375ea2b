"""Train the classifiers that come with undiffuse, and say how well they do on pictures they never saw.

Run: python benchmarks/classifier.py digits|fashion-mnist [--epochs E] [--seed S]

A small residual network (undiffuse.metrics.classifier), AdamW with weight decay 0.05 and a one-cycle learning rate up
to 4e-3, batches of 128, label smoothing 0.05; pictures shifted by up to an eighth of their side, garments mirrored.
Nothing is chosen by the test pictures: the last weights are kept, as float16, under src/undiffuse/metrics/weights.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from undiffuse import rng
from undiffuse.data.dataset import Dataset, Part
from undiffuse.data.prepare import load_data
from undiffuse.metrics.classifier import CLASSIFIER_BATCH, Classifier
from undiffuse.shapes import Tensor

WIDTHS = (32, 64, 128)
BATCH_SIZE, LEARNING_RATE, SMOOTHING = 128, 4e-3, 0.05
EPOCHS = {"digits": 60, "fashion-mnist": 6}
MIRRORED = {"fashion-mnist"}


def varied(images: Tensor, mirrored: bool, draws: rng.Generator) -> Tensor:
    """Each picture shifted on its own, what comes in from outside is black, and mirrored half of the time."""
    n, _, height, width = images.shape
    reach = max(1, height // 8)
    padded = F.pad(images, [reach] * 4, value=-1.0)
    top, left = draws.integers(0, 2 * reach, (n,)), draws.integers(0, 2 * reach, (n,))
    rows = (top[:, None] + torch.arange(height))[:, :, None]
    columns = (left[:, None] + torch.arange(width))[:, None, :]
    images = padded[torch.arange(n)[:, None, None], :, rows, columns].permute(0, 3, 1, 2)
    flips = draws.uniform((n, 1, 1, 1)) < (0.5 if mirrored else 0.0)
    return torch.where(flips, images.flip(-1), images)


def accuracy(network: Classifier, part: Part) -> float:
    network.eval()
    with torch.inference_mode():
        guesses = torch.cat([network(images).argmax(1) for images in part.images().split(CLASSIFIER_BATCH)])
    network.train()
    return float((guesses == part.labels).float().mean())


def trained(name: str, data: Dataset, epochs: int, seed: int) -> Classifier:
    rng.seed_torch(seed, "classifier")
    network = Classifier(data.shape[0], len(data.class_names), WIDTHS).to(memory_format=torch.channels_last)
    steps = epochs * (len(data.train) // BATCH_SIZE)
    adam = torch.optim.AdamW(network.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, LEARNING_RATE, steps)
    began, step = time.time(), 0
    for epoch in range(epochs):
        order = rng.permutation(len(data.train), seed, "classifier", epoch)
        for start in range(0, len(order) - BATCH_SIZE + 1, BATCH_SIZE):
            rows = order[start : start + BATCH_SIZE]
            images = varied(data.train.images(rows), name in MIRRORED, rng.fold(seed, "varied", step))
            loss = F.cross_entropy(network(images), data.train.labels[rows], label_smoothing=SMOOTHING)
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
            step += 1
        print(
            f"epoch {epoch + 1} of {epochs}: loss {float(loss.detach()):.3f}, {time.time() - began:.0f} s", flush=True
        )
    return network


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=EPOCHS)
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "src/undiffuse/metrics/weights")
    given = parser.parse_args()
    data = load_data(given.name)
    network = trained(given.name, data, given.epochs or EPOCHS[given.name], given.seed).half().float()
    found = accuracy(network, data.held_out)
    told = {
        "class_names": json.dumps(data.class_names),
        "shape": json.dumps(data.shape),
        "widths": json.dumps(WIDTHS),
        "accuracy": f"{found:.4f}",
        "recipe": f"python benchmarks/classifier.py {given.name} --seed {given.seed}",
    }
    given.out.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.contiguous().half() for key, value in network.state_dict().items()}
    path = given.out / f"{given.name}.safetensors"
    save_file(tensors, path, told)
    path.chmod(0o644)
    print(f"{given.name}: {100 * found:.2f} % of {len(data.held_out)} held-out pictures")


if __name__ == "__main__":
    main()
