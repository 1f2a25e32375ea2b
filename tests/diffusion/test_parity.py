"""Parity with the schedulers of diffusers, an independent implementation, where both are right."""

import pytest
from peers import (
    FIELD,
    QUIET,
    SAMPLERS,
    VARIANCE,
    apart,
    both,
    ours,
    process,
    same_draws,
    scheduler,
    start,
    states,
    times_of,
)

import undiffuse as ud
from undiffuse.diffusion.samplers import Ancestral

pytestmark = QUIET

ALIKE = [  # on cosine, PNDM and Heun differ below lambda = -5.1; PNDM refuses x0 and differs on v: tests of their own
    (kind, name)
    for kind in SAMPLERS
    for name in ("linear", "cosine")
    if not (kind in ("pndm", "heun") and name == "cosine")
]


@pytest.mark.parametrize("steps", [10, 25])
@pytest.mark.parametrize(
    ("kind", "name", "prediction"),
    [(*both, prediction) for both in ALIKE for prediction in FIELD if both[0] != "pndm" or prediction == "epsilon"],
)
def test_the_formulas_are_the_same(kind, name, prediction, steps):
    one, other = both(kind, process(name), prediction, steps, exact=True)
    rounded = {"dpmpp": 5e-6, "euler": 2e-4 if name == "cosine" else 5e-6}  # these cast x, or x / signal, to float32
    assert apart(one, other) < rounded.get(kind.split("_")[0], 1e-9)


@pytest.mark.parametrize("steps", [10, 20])
@pytest.mark.parametrize("prediction", FIELD)
@pytest.mark.parametrize("name", ["linear", "cosine"])
@pytest.mark.parametrize("variance", VARIANCE)
def test_ancestral_sampling_is_the_same(variance, name, prediction, steps, monkeypatch):
    """On whole times from 999 to 0 of theirs, 1000 to 1 of ours ("linspace", "uniform")."""
    same_draws(monkeypatch)
    made = process(name, variance)
    options = {"variance_type": VARIANCE[variance], "clip_sample": False, "timestep_spacing": "linspace"}
    theirs = scheduler("DDPM", made, steps, prediction, **options)
    times = ud.spacing(made.schedule, steps)
    assert times == times_of(theirs)
    one = states(theirs, made, start(), prediction)
    assert apart(one, ours(made, Ancestral(), start(), times, prediction)) < 1e-7  # 1 - alpha_bar_t / alpha_bar_s there


@pytest.mark.parametrize(("kind", "name"), ALIKE)
def test_as_they_come_in_float32(kind, name):
    """v for all but PNDM: with it neither schedule asks for x0 by a division by signal_T."""
    prediction = "epsilon" if kind == "pndm" else "v_prediction"
    one, other = both(kind, process(name), prediction, 50, exact=False)
    assert apart(one, other) < (1e-4 if name == "cosine" and kind in ("euler", "ddim eta 1") else 1e-5)
