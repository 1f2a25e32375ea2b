"""What a user without type checks may send: prints whatever is taken, or is not refused in one line."""

import numpy as np
import torch

import undiffuse as ud
from undiffuse.evaluation.samples import Samples

pipe = ud.Pipeline.load("digits").configured(sampler="ddim", steps=2, eta=0.0)
x = torch.zeros(20, 1, 8, 8)
sound = {"n": 20, "seeds": [0], "metrics": "kid"}

REFUSED = {
    "n": ("10", 10.5, 10**9),
    "seeds": (0, "01", [0.5], ["a"], [0, 0]),
    "classes": ([3.7], [None], [[1]]),
    "mix": (5,),
    "features": (5,),
    "metrics": (5, ["kid", 5], b"kid"),
    "data": (5, [1]),
    "watch": (None, 5, lambda items, total, what: None),
}
PICTURES = [
    *({"images": images} for images in (None, "", b"x", [x], x.to("meta"), np.ma.masked_array(x.numpy()))),
    *({"images": x, "data": data} for data in (None, 5)),
    {"images": x, "features": None},
    *({"images": x, "labels": labels} for labels in ([3.7] * 20, ["3"] * 20, [[1], [2, 3]], [float("nan")] * 20)),
    {"images": Samples(torch.zeros(20, 3, 9, 9), None)},
    {"images": Samples(x, torch.zeros(2).long())},
    {"images": Samples(x + 200, None)},
    {"images": Samples(x, torch.full((20,), 99))},
]


def tell(what, ask) -> None:
    try:
        ask()
        print("taken:", what)
    except ud.UndiffuseError as error:
        if "\n" in str(error):
            print("several lines:", what)
    except BaseException as error:
        print("raised:", what, repr(error)[:200])


for name, values in REFUSED.items():
    for value in values:
        tell((name, value), lambda given={name: value}: ud.evaluate(pipe, **sound | given))
for given in PICTURES:
    tell(given.keys(), lambda given=given: ud.evaluate_images(**{"data": "digits"} | given))
for label in (3.7, [3.7], [None], [b"3"]):
    tell(("label", label), lambda label=label: pipe.sample(4, label=label))
tell("no watch", lambda: list(pipe.stream(4, watch=None)))
tell("no pipeline", lambda: ud.evaluate("digits"))

plain = ud.evaluate(pipe, **sound)
assert ud.evaluate(pipe, n=np.int64(20), seeds=np.arange(1), metrics=("kid",)).metrics == plain.metrics
assert torch.equal(pipe.sample(4, label=np.int64(3)), pipe.sample(4, label=3))
assert torch.equal(pipe.sample(4, label=(i for i in (1, 2)), batch_size=1), pipe.sample(4, label=[1, 2], batch_size=1))
ud.evaluate_images(np.zeros((20, 1, 8, 8), ">f4")[::-1], "digits", labels=np.arange(20) % 10, metrics="kid")
