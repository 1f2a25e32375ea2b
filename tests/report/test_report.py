"""The report: it holds the run's numbers and pictures, asks nothing of the network, and trusts no text."""

import base64
import json
import re
import shutil
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import yaml

from undiffuse.config import read
from undiffuse.errors import UndiffuseError
from undiffuse.images import write_gif, write_png
from undiffuse.report.contents import read_run
from undiffuse.report.format import duration, plain, quantity
from undiffuse.report.page import write_report
from undiffuse.report.svg import inline_svg
from undiffuse.viz.curves import training_panels

CONFIG = {
    "seed": 7,
    "data": {"source": "digits", "classes": ["0", "1"], "levels": 17},
    "diffusion": {"schedule": "cosine", "T": 1000, "prediction": "v"},
    "train": {"steps": 4000, "batch_size": 128, "lr": 2e-3},
    "sample": {"sampler": "ddim", "steps": 50},
}
EVALUATION = {
    "metrics": {
        "frechet": {"value": 1.8423, "stderr": 0.0513, "floor": 0.6112, "unit": "pixel units", "n": 1797},
        "train_on_generated": {"value": 0.9312, "stderr": None, "floor": 0.9688, "unit": "accuracy", "n": 1000},
        "something_new": {"value": 3.0, "stderr": None, "floor": None, "unit": "bit", "n": 5},
    },
    "per_class": {
        "label_accuracy": {
            "cat": {"value": 0.98123, "stderr": 0.0123, "floor": 0.99, "unit": "accuracy", "n": 120},
            "dog": {"value": 1.0, "stderr": 0.0, "floor": 1.0, "unit": "accuracy", "n": 120},
        },
        "kid": {"cat": {"value": -0.002, "stderr": None, "floor": 0.001, "unit": "", "n": 2}},
    },
    "protocol": {"held_out": 360, "classifier": {"kind": "logistic"}},
}
QUALITY = [
    {"step": 100, "frechet": 2.5, "stderr": 0.05, "raw": 3.0, "floor": 0.6, "verdict": "first", "idle": 0},
    {"step": 1200, "frechet": 0.81234, "stderr": 0.05, "raw": 0.9, "floor": 0.6, "verdict": "improving", "idle": 0},
    {"step": 1300, "frechet": 1.1, "stderr": 0.05, "raw": 1.2, "floor": 0.6, "verdict": "getting worse", "idle": 1},
]
PICTURE = np.arange(8 * 8, dtype=np.uint8).reshape(8, 8, 1)
EVENTS = re.compile(r"^on")


class Page(HTMLParser):
    """Tags with their attributes, and the text between them."""

    VOID = frozenset({"meta", "img", "br", "link", "base", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A whole run folder with its report, to be read only."""
    run = tmp_path_factory.mktemp("runs") / "my-run"
    (run / "samples").mkdir(parents=True)
    (run / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    lines = [{"step": s, "loss": 1 / s, "loss_q1": None, "lr": 1e-3, "images_per_s": 512.0} for s in range(10, 900, 10)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "quality.jsonl").write_text("".join(json.dumps(line) + "\n" for line in QUALITY))
    (run / "evaluation.json").write_text(json.dumps(EVALUATION))
    (run / "environment.json").write_text(
        json.dumps({"training_seconds": 312.4, "cores": 2, "versions": {"torch": "2.9"}})
    )
    for name in ("samples", "classes", "neighbours", "reverse", "forward"):
        write_png(run / "samples" / f"{name}.png", PICTURE)
    write_gif(run / "samples" / "denoising.gif", [PICTURE, PICTURE[::-1]])
    for step in range(100, 2100, 100):
        write_png(run / "samples" / f"step_{step:08d}.png", PICTURE + np.uint8(step // 100))
    assert write_report(run) == run / "report.html"
    return run


@pytest.fixture
def run(whole, tmp_path) -> Path:
    """A copy of it, to be changed."""
    return Path(shutil.copytree(whole, tmp_path / "my-run"))


@pytest.fixture(scope="module")
def made(whole) -> Page:
    return Page((whole / "report.html").read_text("utf-8"))


def page(run: Path) -> Page:
    return Page(write_report(run).read_text("utf-8"))


def test_the_numbers_stand_beside_their_references_and_units(made):
    text = made.text
    assert "1.842 ± 0.051 pixel units" in text
    assert "Reference 0.611 pixel units: real training pictures against real held-out ones" in text
    assert "0.9312 accuracy" in text and "Reference 0.9688 accuracy" in text
    assert "From 1,797 pictures." in text
    assert "lower is better" in text and "higher is better" in text
    assert "Something new 3 bit" in text, "an unknown metric is shown by its own name"
    assert "890 updates" in text and "512 images/s" in text and "5 min 12 s" in text


def test_classes_stand_beside_their_references_all_cut_alike(made):
    text = made.text
    assert "Class by class" in text
    assert "cat 0.981 ± 0.012 0.990 dog 1.000 1.000" in text
    assert "cat -0.002 0.001" in text
    bars = [attrs["style"] for tag, attrs in made.tags if tag == "u"]
    dots = [attrs["style"] for tag, attrs in made.tags if tag == "i" and "left" in str(attrs.get("style"))]
    ends = [float(x) for x in re.findall(r"class ([\d.-]+) ([\d.-]+) generated", text)[0]]
    place = [100 * (x - ends[0]) / (ends[1] - ends[0]) for x in (0.98123, 0.98123 - 0.0123)]
    assert [float(re.findall(r"left:([\d.]+)%", style[0])[0]) for style in (dots, bars)] == pytest.approx(
        place, abs=0.06
    )


@pytest.mark.parametrize(("name", "first"), [("label_accuracy", "c29"), ("kid", "c0")])
def test_of_many_classes_the_worst_are_shown(run, name, first):
    classes = {f"c{i}": {"value": 1 - i / 100, "stderr": 0.01, "floor": 1.0} for i in range(30)}
    (run / "evaluation.json").write_text(json.dumps({"metrics": {}, "per_class": {name: classes}}))
    text = page(run).text
    assert "The 20 worst of 30 classes." in text
    shown = re.findall(r"(c\d+) \d\.\d{3} ± 0\.010", text)
    assert len(shown) == 20 and shown[0] == first


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, 5e-324, None])
def test_any_number_of_a_class_can_be_drawn(run, value):
    measure = {"value": value, "stderr": value and abs(value), "floor": value}
    (run / "evaluation.json").write_text(json.dumps({"per_class": {"kid": {"a": measure}, "new": {"a": measure}}}))
    made = page(run)
    assert "Class by class" in made.text
    assert not any(re.search("nan|inf", str(attrs.get("style"))) for _, attrs in made.tags)


def test_the_quality_curve_tells_the_best_step(made):
    text = made.text
    assert "Best step 1,200" in text and "Distance there 0.812 ± 0.050" in text and "Raw weights there 0.900" in text
    assert "Real pictures 0.600" in text and "Verdict at the end getting worse" in text
    assert "best: 1,200" in text and "real pictures" in text and "raw weights" in text


def test_quality_without_a_number_is_no_best_step(run):
    (run / "quality.jsonl").write_text('{"step": 100, "frechet": null, "stderr": null}\n')
    text = page(run).text
    assert "Quality over training" in text and "Best step" not in text
    (run / "quality.jsonl").write_text('{"step": 100, "frechet": 0.5}\n')
    assert "Distance there 0.5" in page(run).text


def test_what_was_measured_only_earlier_stays_and_says_so(run):
    """Of two evaluations before the last, the newer one's numbers; their protocols where something is from them."""
    (run / "evaluation.json").rename(run / "evaluation-2.json")
    one = {"value": 3.25, "stderr": 0.02, "floor": None, "unit": "bits per dimension", "n": 9}
    frechet = {"frechet": {"value": 77.0, "stderr": None, "floor": None, "unit": "", "n": 3}}
    (run / "evaluation-1.json").write_text(json.dumps({"metrics": frechet, "protocol": {"held_out": 12345}}))
    (run / "evaluation.json").write_text(json.dumps({"metrics": {"bpd": one}, "protocol": {"held_out": 9}}))
    text = page(run).text
    assert text.index("3.250 ± 0.020") < text.index("1.842 ± 0.051 pixel units")
    assert "From 1,797 pictures. Measured earlier (evaluation-2.json)." in text
    assert "From 9 pictures." in text and "From 9 pictures. Measured" not in text
    assert "Class by class" in text and "evaluation-2 held_out 360" in text
    assert "77" not in text.split("How it was measured")[0] and "12345" not in text


def test_a_run_of_before_there_was_more_shows_what_it_has(run):
    """An evaluation without classes, no curve of quality and no neighbours."""
    old = {key: value for key, value in EVALUATION.items() if key != "per_class"}
    (run / "evaluation.json").write_text(json.dumps(old))
    (run / "quality.jsonl").unlink()
    (run / "samples" / "neighbours.png").unlink()
    text = page(run).text
    assert "1.842 ± 0.051 pixel units" in text and "Class by class" not in text
    assert "Quality was not measured on the way" in text and "Not compared yet" in text


def test_configuration_protocol_and_environment_are_there(whole, made):
    text = made.text
    for said in ("digits", "cosine", "1000 time steps", "0.002 per update", "128 images per update", "ddim"):
        assert said in text
    assert "held_out 360" in text and "classifier kind logistic" in text and "torch 2.9" in text
    assert "my-run" in text and str(whole) not in text


def test_a_number_of_the_configuration_is_one_for_the_report_too(whole):
    """YAML 1.1 takes 2e-3 for text; training and the report read it alike."""
    path = whole / "config.yaml"
    before = path.read_text()
    path.write_text(re.sub(r"\blr: \S+", "lr: 2e-3", before))
    assert read_run(whole).config["train.lr"] == read(path).train.lr == 0.002
    path.write_text(before)


def test_the_page_is_well_formed_and_ids_are_unique(made):
    assert not made.open
    ids = [attrs["id"] for _, attrs in made.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert sum(tag == "svg" for tag, _ in made.tags) == 6
    assert all(attrs.get("alt") for tag, attrs in made.tags if tag == "img")


def test_nothing_is_asked_of_the_network(whole):
    text = (whole / "report.html").read_text("utf-8")
    assert not re.search(r"https?:|url\((?!#)|@import|<script|<link|<iframe", text)
    for tag, attrs in Page(text).tags:
        source = attrs.get("src") or attrs.get("href") or attrs.get("xlink:href")
        assert source is None or source.startswith(("data:image/", "#")), (tag, source)
    assert "default-src 'none'" in text and "prefers-color-scheme: dark" in text and "@media print" in text


def test_pictures_are_inside_byte_for_byte(whole, made):
    sources = [attrs["src"] for tag, attrs in made.tags if tag == "img"]
    inside = {base64.b64decode(source.split(",")[1]) for source in sources}
    for name in ("samples.png", "denoising.gif", "classes.png", "neighbours.png", "reverse.png", "forward.png"):
        assert (whole / "samples" / name).read_bytes() in inside
    assert any(source.startswith("data:image/gif") for source in sources)


def test_growth_shows_eight_steps_from_first_to_last(made):
    steps = [int(step.replace(",", "")) for step in re.findall(r"after ([\d,]+) updates", made.text)]
    assert len(steps) == 8 and steps[0] == 100 and steps[-1] == 2000 and steps == sorted(steps)


def test_no_text_becomes_markup(run):
    evil = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&$name${name}"
    config = {evil: {evil: evil}, "data": {"source": evil}, "diffusion": {"prediction": evil}, "list": [evil]}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    measure = {"value": 1.0, "stderr": None, "floor": 1.0, "unit": evil, "n": 1}
    (run / "evaluation.json").write_text(
        json.dumps({"metrics": {evil: measure}, "per_class": {evil: {evil: measure}}, "protocol": {evil: evil}})
    )
    (run / "quality.jsonl").write_text(json.dumps(QUALITY[0] | {"verdict": evil}) + "\n")
    (run / "environment.json").write_text(json.dumps({evil: {evil: evil}}))
    named = run.rename(run.parent / "<b>&run")
    made = page(named)
    assert {"script", "b"}.isdisjoint({tag for tag, attrs in made.tags if not attrs.get("style")})
    assert not any(EVENTS.match(name) for _, attrs in made.tags for name in attrs)
    assert all(attrs["src"].startswith("data:") for tag, attrs in made.tags if tag == "img")
    assert "<script>alert(1)</script>" in made.text, "shown as what it is: text"
    assert "$name${name}" in made.text


def test_a_bare_run_says_what_is_missing(tmp_path):
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    text = page(tmp_path).text
    for said in (
        "Not evaluated yet",
        "No samples were drawn",
        "No pictures were drawn during training",
        "No trajectories",
        "No training was recorded",
        "no protocol",
        "environment was not recorded",
    ):
        assert said in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", b"a: [1"),
        ("config.yaml", b"just words"),
        ("config.yaml", b"\xff\xfe\x00"),
        ("metrics.jsonl", b'{"step": 1}\n{"step": 2, "lo\n{"step": 3}\n'),
        ("metrics.jsonl", b'{"loss": 1}\n'),
        ("metrics.jsonl", b'{"step": 1, "loss": "low"}\n'),
        ("evaluation.json", b"{"),
        ("evaluation.json", b"[]"),
        ("evaluation.json", b'{"metrics": {"frechet": 3}}'),
        ("evaluation.json", b'{"metrics": {"frechet": {"value": "3"}}}'),
        ("evaluation.json", b'{"per_class": [1]}'),
        ("evaluation.json", b'{"per_class": {"kid": 3}}'),
        ("evaluation.json", b'{"per_class": {"kid": {"cat": 3}}}'),
        ("evaluation.json", b'{"per_class": {"kid": {"cat": {"value": "3"}}}}'),
        ("quality.jsonl", b'{"step": 1}\n{"step": 2, "fre\n{"step": 3}\n'),
        ("quality.jsonl", b'{"step": 1, "frechet": "low"}\n'),
        ("quality.jsonl", b'{"frechet": 1}\n'),
        ("environment.json", b"nonsense"),
        ("samples/samples.png", b"not a picture"),
        ("samples/neighbours.png", b"not a picture"),
        ("samples/denoising.gif", b"GIF89a"),
        ("samples/step_00000100.png", b""),
    ],
)
def test_a_broken_file_is_named_in_one_line_and_the_old_report_stays(run, name, content):
    (run / "report.html").write_text("the old report")
    (run / name).write_bytes(content)
    with pytest.raises(UndiffuseError) as refused:
        write_report(run)
    assert str(run / name) in str(refused.value)
    assert "\n" not in str(refused.value)
    assert (run / "report.html").read_text() == "the old report"
    assert not list(run.glob(".report*"))


def test_a_cut_picture_is_refused(run):
    path = run / "samples" / "samples.png"
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UndiffuseError, match=r"samples\.png"):
        write_report(run)


def test_a_line_being_written_does_not_stop_the_report(run):
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9000, "lo')
    assert "890 updates" in page(run).text


def test_a_folder_without_configuration_is_no_run(tmp_path):
    with pytest.raises(UndiffuseError, match=r"no config\.yaml"):
        write_report(tmp_path)


def test_undefined_values_are_said_to_be_undefined(run):
    nan = {"value": float("nan"), "stderr": float("nan"), "floor": 0.5, "unit": "", "n": None}
    (run / "evaluation.json").write_text(json.dumps({"metrics": {"frechet": nan}}))
    assert "undefined" in page(run).text


def test_the_same_folder_gives_the_same_page(whole, run):
    assert write_report(run).read_bytes() == (whole / "report.html").read_bytes()


def test_an_inline_figure_takes_the_pages_colours():
    svg = inline_svg(training_panels([{"step": 1, "loss": 1.0}])["Loss"], 'Loss "<x>')
    ET.fromstring(svg.replace("xlink:href", "href"))
    assert "var(--ink)" in svg and "var(--muted)" in svg and "var(--face)" in svg and "#1d2530" not in svg
    assert "&lt;x&gt;" in svg and "step (updates)" in svg


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.91234, 0.0043, ("0.9123", "0.0043")),
        (1234.5, 12.0, ("1,234", "12")),
        (0.5, None, ("0.5", "")),
        (0.0, 0.0, ("0", "")),
        (1.5, 0.96, ("1.50", "0.96")),
    ],
)
def test_quantities_are_cut_at_their_error(value, stderr, text):
    assert quantity(value, stderr) == text


def test_values_read_as_a_person_would_write_them():
    assert [plain(x) for x in (True, None, 12345, 0.002, [1, "a"], [])] == [
        "yes",
        "none",
        "12,345",
        "0.002",
        "1, a",
        "none",
    ]
    assert [duration(x) for x in (4.25, 59.6, 312.4, 7300)] == ["4.25 s", "1 min 0 s", "5 min 12 s", "2 h 1 min"]
