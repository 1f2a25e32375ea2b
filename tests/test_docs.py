"""What the documents show works: their Python is run, their links and pictures exist."""

import re
from pathlib import Path

import pytest

from undiffuse.data.prepare import load_data
from undiffuse.data.sources import SOURCES
from undiffuse.diffusion.noise import NOISES
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.diffusion.schedule import SCHEDULES
from undiffuse.evaluation.choice import LIKELIHOODS
from undiffuse.evaluation.measures import MEASURES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.S)


@pytest.fixture
def tables():
    """What the examples register is forgotten again."""
    kept = [(table, dict(table)) for table in (SCHEDULES, SAMPLERS, SOURCES, NOISES)]
    yield
    for table, before in kept:
        table.clear()
        table.update(before)


def test_the_examples_of_extending_run_and_what_they_add_is_usable(tables):
    names: dict = {}
    for block in python_of(ROOT / "docs/extending.md"):
        exec(block, names)
    assert SCHEDULES["geometric"](100).T == 100
    assert type(SAMPLERS["cold"](0.0)).__name__ == "Cold"
    stripes = load_data("stripes")
    assert (len(stripes.train), len(stripes.held_out), stripes.class_names) == (90, 10, ("horizontal", "vertical"))


def test_the_family_of_the_noise_page_passes_its_check_and_is_usable(tables):
    names: dict = {}
    for block in python_of(ROOT / "docs/noise.md"):
        exec(block, names)
    assert NOISES["triangular"]().exact == {"flow"}


def test_the_steered_samples_of_the_samplers_page_follow_bayes_rule():
    names: dict = {}
    for block in python_of(ROOT / "docs/samplers.md"):
        exec(block, names)
    assert names["x"].mean().item() == pytest.approx(0.8, abs=0.03)
    assert names["x"].std().item() == pytest.approx(0.447, abs=0.02)


@pytest.mark.filterwarnings("ignore:the Frechet distance of")
def test_the_library_s_evaluation_on_its_page_runs(tmp_path, monkeypatch):
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": tmp_path / kind)
    names: dict = {}
    for block in python_of(ROOT / "docs/evaluation.md"):
        exec(block, names)
    assert list(names["found"].metrics) == ["frechet", "kid"]
    assert names["same"].metrics["label_accuracy"].value > 0.9


def test_every_difference_of_the_samplers_page_is_pinned_by_a_test_and_every_sampler_is_there():
    page, tests = ((ROOT / name).read_text() for name in ("docs/samplers.md", "tests/diffusion/test_differences.py"))
    differences = page.split("## Where diffusers differs")[1]
    named = re.findall(r"`(\w{15,})`", "\n".join(re.findall(r"\|([^|]*)\|$", differences, re.M)))
    assert sorted(set(named)) == sorted(re.findall(r"^def test_(\w+)", tests, re.M))
    assert set(re.findall(r"^\| `(\w+)` \|", page.split("## Times")[0], re.M)) == set(SAMPLERS)


def test_the_planted_faults_of_the_evaluation_page_are_those_of_the_tests():
    """Every amount that a test holds stands in the line of its measure; every measure has its line."""
    page, tests = ((ROOT / name).read_text() for name in ("docs/evaluation.md", "tests/metrics/test_planted_faults.py"))
    planted = page.split("## Planted faults")[1].split("\n## ")[0]
    lines = re.findall(r"^\| `(\w+)`(?:, (\w+))? \|(.*)", planted, re.M)
    said = {(name, features or "pixels"): re.findall(r"[-+][\d.]+", cells) for name, features, cells in lines}
    held = re.findall(r'\(\w+, "(\w+)", "(\w+)", (-?[\d.]+)\)', tests)
    assert len(held) > 20
    for name, features, amount in held:
        assert float(amount) in map(float, said[name, features]), (name, features, amount)
    means = re.findall(r"^\| `(\w+)` \|", page.split("## Planted faults")[0], re.M)
    assert set(means) == {*MEASURES, *LIKELIHOODS}


def test_the_readme_examples_run(tables, monkeypatch, demo_like_run, capsys):
    monkeypatch.chdir(demo_like_run.parent.parent)
    names: dict = {}
    for block in python_of(ROOT / "README.md"):
        exec(block, names)
    assert names["x"].shape == (10, 1, 8, 8)
    assert names["back"].var.ndim == 0
    assert SCHEDULES["gentle"](1000).T == 1000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_pictures_exist(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


@pytest.fixture(scope="module")
def demo_like_run(tmp_path_factory):
    """A run folder called runs/demo, trained for two steps."""
    from undiffuse import config
    from undiffuse.train.job import Training

    path = tmp_path_factory.mktemp("readme") / "runs" / "demo"
    for _ in Training.start(config.load("digits", ["train.steps=2", "model.channels=16"]), path, "demo"):
        pass
    return path


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_figure_of_the_limits_shows_what_it_says(name):
    """With the exact variance only the prior is wrong; large costs little, small about what the dotted line says."""
    import runpy

    from undiffuse import NoiseSchedule

    figure = runpy.run_path(str(ROOT / "docs/figures/limits.py"))
    schedule = getattr(NoiseSchedule, name)(120)
    exact, large, small = (figure["gap"](schedule, kind) for kind in ("exact", "large", "small"))
    assert exact == pytest.approx(figure["wrong_prior"](schedule), rel=1e-3, abs=1e-10)
    assert 0 < large < 0.05 < 0.64 < small < 1.6
    assert large == pytest.approx(by_hand(schedule, lambda t, left: schedule.beta[t]) + exact, rel=1e-6)


def by_hand(schedule, variance) -> float:
    """Sum of (r - 1 - ln r) / 2, r = Var(x_{t-1} | x_t) / the model's variance, in bits, for N(0.4, 0.3^2) data."""
    import math

    ab, total = schedule.alpha_bar, 0.0
    for t in range(1, schedule.T + 1):
        left = 0.09 * (1 - ab[t]) / (ab[t] * 0.09 + 1 - ab[t])
        small = schedule.beta[t] * (1 - ab[t - 1]) / (1 - ab[t])
        on_x0 = ab[t - 1] ** 0.5 * schedule.beta[t] / (1 - ab[t])
        r = (small + on_x0**2 * left) / variance(t, left)
        total += (r - 1 - math.log(r)) / 2 / math.log(2)
    return total


def test_the_example_of_editing_runs(monkeypatch, demo_like_run):
    monkeypatch.chdir(demo_like_run.parent.parent)
    names: dict = {}
    for block in python_of(ROOT / "docs/editing.md"):
        exec(block, names)
    assert names["painted"].shape == (4, 1, 8, 8) and names["way"].shape == (5, 1, 8, 8)
