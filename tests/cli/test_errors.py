"""An error that a user can cause is one line on stderr, the right exit status, and nothing created or lost."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

import tiny
from undiffuse.cli import main
from undiffuse.data.prepare import digits
from undiffuse.evaluation.real import RealImages
from undiffuse.files.checkpoint import digest_of

TINY = "tiny.yaml"


@pytest.fixture
def place(tmp_path, tiny_run, monkeypatch):
    """A folder to work in: a recipe, a run behind a link, a file, an empty folder, pictures."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / TINY).write_text(tiny.config().as_yaml())
    (tmp_path / "run").symlink_to(tiny_run)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    full = tmp_path / "full"
    full.mkdir()
    (full / "x").write_text("mine")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "black.png")
    Image.fromarray(np.zeros((8, 16), np.uint8)).save(tmp_path / "wide.png")
    (tmp_path / "dangling").symlink_to("nowhere")
    pictures = (np.arange(20 * 64).reshape(20, 8, 8, 1) % 256).astype(np.uint8)
    np.savez(tmp_path / "good.npz", images=pictures, labels=np.arange(20) % 10)
    np.savez(tmp_path / "shape.npz", images=pictures[:, :7], labels=np.arange(20))
    np.savez(tmp_path / "text.npz", images=pictures, labels=np.array(["a"] * 20))
    np.savez(tmp_path / "none.npz", labels=np.arange(20))
    np.savez(tmp_path / "zero.npz", images=pictures[:0], labels=np.arange(0))
    np.savez(tmp_path / "one.npz", images=pictures[:1], labels=np.arange(1))
    np.savez(tmp_path / "nan.npz", images=np.full((20, 8, 8, 1), np.nan))
    (tmp_path / "mixed").mkdir()
    for i, side in enumerate((8, 9)):
        Image.fromarray(np.zeros((8, side), np.uint8)).save(tmp_path / "mixed" / f"{i}.png")
    (tmp_path / "junk.npz").write_bytes(b"\x93\xff junk" * 20)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "good.npz").read_bytes()[:300])
    return tmp_path


@pytest.fixture
def refused(capsys):
    """Run; check the exit status, the one line and that it says so."""

    def run(arguments: list[str], status: int, words: str, progress: bool = False) -> None:
        assert main(arguments) == status, capsys.readouterr()
        out, err = capsys.readouterr()
        lines = err.splitlines()
        assert len(lines) == 1 or progress
        assert lines[-1].startswith("undiffuse: ")
        assert words in lines[-1]
        assert out == "" or progress

    return run


def train(*sets: str) -> list[str]:
    return ["train", TINY, "--out", "new", *(part for text in sets for part in ("--set", text))]


def edit(kind: str, *options: str, out: str = "x.png") -> list[str]:
    return ["edit", "run", kind, "--out", out, *options]


def sample(*options: str, out: str = "x.png") -> list[str]:
    return ["sample", "run", "--out", out, *options]


USAGE = [
    (["train", "digitz"], "unknown recipe 'digitz'; did you mean 'digits'?"),
    (["train", "none.yaml"], "none.yaml: cannot be read"),
    (["train", "empty"], "unknown recipe 'empty'"),
    (["train"], "name a recipe"),
    (["train", TINY, "--from", "nowhere"], "no model 'nowhere'"),
    (["train", "--resume"], "--resume takes --out DIR and nothing else"),
    (["train", TINY, "--resume", "--out", "run"], "--resume takes --out DIR and nothing else"),
    (["train", "--resume", "--out", "run", "--set", "seed=1"], "--resume takes --out DIR and nothing else"),
    (["train", TINY, "--out", "full"], "full: exists already; choose another --out"),
    (["train", TINY, "--out", "empty"], "empty: exists already"),
    (["train", TINY, "--out", "file"], "file: exists already"),
    (["demo", "--out", "full"], "full: exists already"),
    (train("trian.lr=1"), "unknown key 'trian'"),
    (train("train.lrr=1"), "unknown key 'train.lrr'; did you mean 'train.lr'?"),
    (train("train.lr"), "--set takes key=value"),
    (train("train.lr=abc"), "train.lr: input should be a valid number, got 'abc'"),
    (train("train.lr=.nan"), "finite"),
    (train("train.lr=.inf"), "finite"),
    (train("sample.guidance=.nan"), "finite"),
    (train("sample.eta=.inf"), "finite"),
    (train("train.steps=-1"), "greater than or equal to 1"),
    (train("train.batch_size=1000000000000"), "less than or equal to"),
    (train("diffusion.T=1000000000000"), "less than or equal to"),
    (train("format_version=2"), "format_version 2 is newer than 1; please upgrade"),
    (train("diffusion.T=20", "diffusion.schedule=linear"), "T = 20"),
    (train("diffusion.T=3"), "T = 3"),
    (train("sample.steps=51"), "T = 50"),
    (train("diffusion.schedule=lin"), "diffusion.schedule: unknown name 'lin'; did you mean 'linear'?"),
    (train("diffusion.prediction=epss"), "'epss'"),
    (train("diffusion.noise=laplas"), "unknown name 'laplas'"),
    (train("diffusion.loss=mse"), "unknown name 'mse'"),
    (train("diffusion.variance=learned"), "does not teach a learned variance"),
    (train("sample.sampler=dim"), "did you mean 'ddim'?"),
    (train("sample.spacing=even"), "'even'"),
    (train("data.source=digitz"), "unknown data source 'digitz'"),
    (train("data.classes=[ten]"), "no class 'ten'"),
    (train("data.classes=[]"), "name at least one class"),
    (train("model.channels=7"), "must be even"),
    (train("model.attention=[3]"), "model.attention"),
    (train("model.heads=3"), "model.heads"),
    (train("model.blocks=10000"), "model.blocks: input should be less than or equal to 100"),
    (train("model.multipliers=[60000]"), "weights take"),
    (train("train.ema=[" + ", ".join(map(str, range(1, 30))) + "]"), "train.ema"),
    (["plot", "schedules", "-T", "99999999"], "diffusion.T: input should be less than"),
    (sample("-n", "-3"), "-n must be at least 1"),
    (sample("-n", "0"), "-n must be at least 1"),
    (sample("-n", "many"), "-n"),
    (sample("-n", "1.5"), "-n"),
    (sample("--start", "-1"), "start must be at least 0"),
    (sample("--batch-size", "0"), "batch size at least 1"),
    (sample("--label", "10"), "label 10 is out of range; this model has 10 classes"),
    (sample("--label", "-1"), "label -1 is out of range"),
    (sample("--label", "cat"), "no class 'cat'"),
    (sample("--label", ""), "an empty list of labels"),
    (sample("--label", "3,,7"), "no class ''"),
    (sample("-n", "100000000"), "100,000,000 images are too many for one file; give --out a new folder's name"),
    (sample("-n", "4000000"), "4,000,000 images are too many for one file"),  # 256 MB of pixels, but enlarged 6 times
    (sample("--spacing", "foo"), "unknown spacing 'foo'; known: auto, uniform"),
    (sample("--label", ","), "no class ''"),
    (sample("--label", "11", out="new"), "label 11 is out of range"),
    (sample("--steps", "51", out="new"), "T = 50"),
    (sample("--batch-size", "0", out="new"), "batch size"),
    (sample("--steps", "51"), "T = 50"),
    (sample("--steps", "0"), "greater than or equal to 1"),
    (sample("--steps"), "--steps"),
    (sample("--sampler", "dim"), "did you mean 'ddim'?"),
    (sample("--spacing", "even"), "'even'"),
    (sample("--guidance", "nan"), "finite"),
    (sample("--guidance", "inf"), "finite"),
    (sample("--eta", "nan"), "finite"),
    (sample("--eta", "1.5"), "less than or equal to 1"),
    (sample("--device", "abacus"), "device 'abacus' cannot be used"),
    (sample("--device", "meta"), "device 'meta'"),
    (sample("--device", ""), "--device is empty"),
    (sample("--batch-size", "8", out="x.gif"), "an animation is made in one batch; leave --batch-size out"),
    (sample("-n", "10000001", out="new"), "a job has at most 10,000,000 images, not 10,000,001"),
    (sample("-n", "10000000", "--batch-size", "8", out="new"), "batches of 8 images are too small for 10,000,000"),
    (sample(out="dangling"), "dangling: is a link to nowhere, which is not there"),
    (["train", TINY, "--out", "caf\udce9"], "caf\\udce9: the name is not UTF-8; choose another --out"),
    (sample("--weights", "average"), "weights are 'ema' or 'raw'"),
    (sample("--nope"), "--nope"),
    (sample(out="x.txt"), "unknown file extension '.txt'"),
    (sample(out="full"), "full: exists already, and no sampling job made it"),
    (sample(out="file"), "file: exists already, and no sampling job made it"),
    (sample(out="run"), "run: exists already, and no sampling job made it"),
    (sample("--format", "jpg", out="new"), "--format jpg: unknown; did you mean 'png'?"),
    (sample("--format", "npz", out="x.npz"), "--format is for a folder, and x.npz is a file"),
    (sample("-n", "300", out="x.gif"), "take -n 256 or fewer"),
    (["sample", "run"], "--out"),
    (["sample", "--out", "x.png"], "MODEL"),
    (["sample", "nowhere", "--out", "x.png"], "no model 'nowhere'"),
    (["sample", "a\x00b", "--out", "x.png"], "no model"),
    (["sample", "run", "extra", "--out", "x.png"], "extra"),
    (["evaluate", "nowhere"], "nowhere: no such model or pictures"),
    (["evaluate", "digit"], "digit: no such model or pictures; did you mean 'digits'?"),
    (["evaluate", ""], "an empty name: no such model or pictures"),
    (["evaluate", "good.npz", "--data", "digits", "--seed", "0"], "--seed is for a model, these are pictures"),
    (["evaluate", "good.npz", "--data", "digits", "--features", ""], "unknown features ''"),
    (["evaluate", "run", "--label", "3,,4"], "no class ''"),
    (["evaluate", "good.npz"], "--data digits"),
    (["evaluate", "good.npz", "--data", "digitz"], "unknown data source"),
    (["evaluate", "good.npz", "--data", "digits", "--mix", "even"], "--mix is for a model"),
    (["evaluate", "digits", "--mix", "evne"], "mix evne: did you mean 'even'?"),
    (["evaluate", "good.npz", "--data", "digits", "-n", "5"], "-n is for a model, these are pictures; leave it out"),
    (["evaluate", "good.npz", "--data", "digits", "--steps", "5"], "--steps is for a model, these are pictures"),
    (["evaluate", "run", "--steps", "0"], "sample.steps"),
    (["evaluate", "run", "--sampler", "heunn"], "unknown name 'heunn'"),
    (["evaluate", "run", "--label", "ten"], "no class 'ten'"),
    (["evaluate", "run", "--features", "vgg"], "unknown features 'vgg'"),
    (["evaluate", "file", "--data", "digits"], "cannot read pictures"),
    (["evaluate", "good.npz", "--data", "digits", "--metrics", "fid"], "unknown metric 'fid'"),
    (["evaluate", "good.npz", "--data", "digits", "--metrics", ""], "an empty list of metrics"),
    (["evaluate", "run", "--repeats", "0"], "--repeats must be at least 1"),
    (["evaluate", "run", "-n", "-1"], "-n must be at least 2"),
    (["evaluate", "run", "--out", "x.txt"], "evaluate writes .json"),
    (["plot", "schedules", "--out", "x.gif"], "plots are written as .png"),
    (["plot", "schedules", "-T", "20"], "T = 20"),
    (["plot", "forward", "--row", "-1"], "--row must lie in"),
    (["plot", "forward", "--row", "9999"], "--row must lie in"),
    (["plot", "reverse", "run", "-n", "7"], "-n must lie in 1..6"),
    (["plot", "reverse", "run", "-n", "0"], "-n must lie in 1..6"),
    (["plot", "pie"], "pie"),
    (["sampel"], "sampel"),
    (["--nope"], "--nope"),
    (["studio", "run", "--some", "thing"], "is not in this version"),
    (edit("melt"), "unknown kind of edit 'melt'; known: inpaint"),
    (edit("impaint"), "did you mean 'inpaint'?"),
    (["edit", "inpaint", "run", "--out", "x.png"], "the model comes first: undiffuse edit run inpaint"),
    (edit("inpaint"), "inpaint needs --mask: a picture, white where to paint, or one of left, right"),
    (edit("inpaint", "--mask", "left", "--strength", "0.5"), "--strength is for variation, not for inpaint"),
    (edit("reconstruct", "-n", "3"), "-n is for inpaint and variation and interpolate, not for reconstruct"),
    (edit("inpaint", "--mask", "left", "--repeats", "0"), "repeats must be at least 1"),
    (edit("inpaint", "--mask", "left", "-n", "0"), "-n must lie in 1..10,000, got 0"),
    (edit("variation", "-n", "10000000000000000000"), "-n must lie in 1..10,000"),
    (edit("variation", "--guidance", "3"), "--guidance leads towards a class: say which, with --label"),
    (edit("interpolate", "--rows", "0,1", "--guidance", "3"), "--guidance leads towards a class"),
    (edit("variation", "--image", ""), "'--image': it is empty; give a file's name"),
    (edit("variation", "--image", "black.png", out="black.png"), "black.png: is what is to be changed"),
    (edit("inpaint", "--mask", "black.png", out="./black.png"), "black.png: is what is to be changed"),
    (edit("inpaint", "--mask", "wide.png", "--rows", "0"), "wide.png: 16 x 8 has not the proportions of the picture"),
    (edit("inpaint", "--mask", "wide.png", "--image", "good.npz"), "16 x 8 has not the proportions of the picture"),
    (["fit", "run", "-n", "100000"], "times are fitted on at most 4,096 images, not 100,000"),
    (edit("inpaint", "--mask", "black.png"), "everything is known: there is nothing to paint"),
    (edit("variation", "--strength", "0"), "strength must lie in (0, 1]"),
    (edit("variation", "--strength", "nan"), "strength must lie in (0, 1]"),
    (edit("variation", "--rows", "0,a"), "--rows takes whole numbers"),
    (edit("variation", "--rows", "-1"), "counted from 0"),
    (edit("variation", "--rows", "450"), "there are 450 held-out pictures"),
    (edit("variation", "--rows", "0", "--image", "black.png"), "not both"),
    (edit("variation", "--label", "elephant"), "no class 'elephant'"),
    (edit("variation", "--label", ""), "an empty list of labels"),
    (edit("interpolate", "--between", "1"), "--between takes two numbers"),
    (edit("interpolate", "--between", "0,1", "--rows", "0,1"), "not both"),
    (edit("interpolate", "--image", "black.png"), "give two, not 1"),
    (edit("interpolate", "-n", "1"), "at least 2 pictures"),
    (edit("interpolate", "--sampler", "ancestral"), "draws noise on the way"),
    (edit("reconstruct", "--sampler", "unipc"), "reconstruct has sampler ddim: leave --sampler out"),
    (edit("reconstruct", "--eta", "1"), "reconstruct has eta 0.0: leave --eta out"),
    (edit("interpolate", "--eta", "1"), "interpolate has eta 0.0: leave --eta out"),
    (edit("inpaint", "--mask", "diagonal"), "--mask diagonal: no such picture, and no side; known: left, right"),
    (edit("inpaint", "--mask", ""), "no such picture, and no side"),
    (edit("reconstruct", "--refine", "-1"), "refinements must be at least 0"),
    (edit("variation", out="x.gif"), "unknown file extension '.gif'"),
    (edit("variation", out="full"), "full: exists already"),
]  # fmt: skip

RUN_TIME = [
    (["train", "--resume", "--out", "nowhere"], "nowhere: not a run folder"),
    (["train", "--resume", "--out", "full"], "full: not a run folder"),
    (["train", "--resume", "--out", "file"], "file: not a run folder"),
    (["train", TINY, "--out", "file/new"], "file/new: cannot be created"),
    (["train", TINY, "--out", "n" * 300], "too long"),
    (sample(out="file/x.png"), "file: cannot be written"),
    (edit("variation", "--image", "nowhere.png"), "nowhere.png: cannot be read (No such file"),
    (edit("variation", "--image", "file"), "file: not a picture"),
    (edit("variation", "--image", "empty"), "empty: no PNG files here"),
    (edit("variation", "--image", "zero.npz"), "zero.npz: holds no pictures"),
    (edit("variation", "--image", "junk.npz"), "junk.npz: not an .npz"),
    (edit("inpaint", "--mask", "file"), "file: not a picture"),
    (edit("variation", out="nowhere/x.png"), "nowhere: cannot be written"),
    (sample(out="nowhere/x.png"), "nowhere: cannot be written"),
    (sample(out="n" * 300 + ".png"), "too long"),
    (sample("--checkpoint", "3"), "no checkpoint '3'; there are 2, 4, 6"),
    (sample("--checkpoint", "best"), "nobody knows its best checkpoint"),
    (sample("--checkpoint", "²"), "no checkpoint '²'"),
    (["sample", "empty", "--out", "x.png"], "empty: not a run folder"),
    (["evaluate", "empty", "--data", "digits"], "empty: no PNG files here"),
    (["evaluate", "junk.npz", "--data", "digits"], "junk.npz: not an .npz"),
    (["evaluate", "cut.npz", "--data", "digits"], "cut.npz: not an .npz"),
    (["evaluate", "none.npz", "--data", "digits"], "none.npz: not an .npz with an array 'images'"),
    (["evaluate", "shape.npz", "--data", "digits"], "pictures are 1x7x8 but digits is 1x8x8"),
    (["evaluate", "text.npz", "--data", "digits"], "'labels' n integers"),
    (["evaluate", "nan.npz", "--data", "digits"], "'images' must be uint8 [n, h, w, c]"),
    (["evaluate", "zero.npz", "--data", "digits"], "zero.npz: pictures to measure: 0, and at least 2 are needed"),
    (["evaluate", "one.npz", "--data", "digits"], "one.npz: pictures to measure: 1, and at least 2 are needed"),
    (["evaluate", "mixed", "--data", "digits"], "mixed: the pictures differ in size or colour; they must all be alike"),
    (["evaluate", "run", "--out", "nowhere/x.json"], "nowhere: cannot be written"),
    (["evaluate", "good.npz", "--data", "digits", "--out", "file/x.json"], "file: cannot be written"),
    (["plot", "schedules", "--out", "file/x.png"], "file: cannot be written"),
]


@pytest.mark.parametrize(("arguments", "words"), USAGE, ids=lambda value: " ".join(value)[:60])
def test_usage_errors(place, refused, arguments, words):
    before = tiny.tree(place)
    refused(arguments, 2, words)
    assert tiny.tree(place) == before


@pytest.mark.parametrize(("arguments", "words"), RUN_TIME, ids=lambda value: " ".join(value)[:60])
def test_run_time_errors(place, refused, arguments, words):
    before = tiny.tree(place)
    refused(arguments, 1, words)
    assert tiny.tree(place) == before


@pytest.mark.parametrize("arguments", [[], ["plot"]])
def test_no_command_shows_the_help_and_fails(capsys, arguments):
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert "Usage:" in out
    assert err == "undiffuse: name a command\n"


def spoil_tensors(change):
    def spoil(run):
        path = run / "checkpoints" / "00000006" / "ema.safetensors"
        weights = load_file(path)
        change(weights)
        save_file(weights, path)
        state = path.with_name("state.json")
        state.write_text(json.dumps(json.loads(state.read_text()) | {"digests": {path.name: digest_of(path)}}))

    return spoil


def replace_bytes(name, change):
    def spoil(run):
        (run / name).write_bytes(change((run / name).read_bytes()))

    return spoil


def newer(data: bytes) -> bytes:
    return json.dumps({**json.loads(data), "format_version": 9}).encode()


EMA, STATE = "checkpoints/00000006/ema.safetensors", "checkpoints/00000006/state.json"
BROKEN = {
    "truncated": (replace_bytes(EMA, lambda data: data[:-9]), 1, "ema.safetensors: truncated"),
    "empty": (replace_bytes(EMA, lambda data: b""), 1, "ema.safetensors: truncated"),
    "garbage": (replace_bytes(EMA, lambda data: b"\xff" * 900), 1, "ema.safetensors: truncated"),
    "missing weight": (spoil_tensors(lambda w: w.pop("head.bias")), 1, "'head.bias' is missing"),
    "another shape": (spoil_tensors(lambda w: w.update({"head.bias": w["stem.weight"].clone()})), 1, "is ["),
    "extra weight": (spoil_tensors(lambda w: w.update({"x": w["head.bias"].clone()})), 1, "'x' is not in this one"),
    "newer state": (replace_bytes(STATE, newer), 1, "format_version 9 is newer"),
    "state of garbage": (replace_bytes(STATE, lambda data: b"\xff\x00"), 1, "state.json: not a checkpoint's state"),
    "newer config": (replace_bytes("config.yaml", lambda d: d.replace(b"on: 1", b"on: 2")), 2, "is newer than 1"),
    "unknown key": (replace_bytes("config.yaml", lambda d: d + b"\nsede: 1\n"), 2, "did you mean 'seed'?"),
    "config of garbage": (replace_bytes("config.yaml", lambda data: b"\xff\xfe"), 2, "config.yaml: cannot be read"),
    "another network": (replace_bytes("config.yaml", lambda d: d.replace(b"channels: 8", b"channels: 16")), 1, "anoth"),
    "no shape": (replace_bytes("config.yaml", lambda d: d.replace(b"[1, 8, 8]", b"null")), 1, "data.shape is missing"),
    "a deep shape": (replace_bytes("config.yaml", lambda d: d.replace(b"[1, 8, 8]", b"[1, 1, 8, 8]")), 2, "data.shape"),
}  # fmt: skip


DAMAGED = ("truncated", "empty", "garbage", "missing weight", "another shape", "extra weight", "state of garbage")


@pytest.mark.parametrize(
    ("command", "kind"),
    [("sample", kind) for kind in BROKEN] + [("resume", kind) for kind in BROKEN if kind not in DAMAGED],
)  # from damage a resume goes on with the checkpoint before: tests/train/test_job.py
def test_a_broken_run_folder_is_named_and_left_alone(run_copy, tmp_path, refused, kind, command):
    spoil, status, words = BROKEN[kind]
    spoil(run_copy)
    before = tiny.tree(tmp_path)
    arguments = ["sample", str(run_copy), "--out", str(tmp_path / "x.png")]
    refused(arguments if command == "sample" else ["train", "--resume", "--out", str(run_copy)], status, words)
    assert tiny.tree(tmp_path) == before


def test_weights_of_nan_give_an_error_and_no_picture(run_copy, tmp_path, refused):
    spoil_tensors(lambda w: w["head.bias"].fill_(float("nan")))(run_copy)
    refused(["sample", str(run_copy), "--out", str(tmp_path / "x.png")], 1, "NaN or infinity", progress=True)
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize("metrics", ["frechet", "bpd"])
def test_weights_of_nan_are_not_measured(run_copy, refused, metrics):
    spoil_tensors(lambda w: w["head.bias"].fill_(float("nan")))(run_copy)
    before = tiny.tree(run_copy)
    given = [
        "evaluate",
        str(run_copy),
        "--metrics",
        metrics,
        *(["-n", "4"] if metrics == "frechet" else ["--times", "1"]),
    ]
    refused(given, 1, "NaN or infini", progress=True)
    assert tiny.tree(run_copy) == before


@pytest.mark.parametrize("command", [["evaluate", "--metrics", "kid"], ["sample", "--out", "x.png"]])
def test_weights_that_a_bit_was_flipped_in_are_not_used(run_copy, tmp_path, monkeypatch, refused, command):
    monkeypatch.chdir(tmp_path)
    path = run_copy / "checkpoints" / "00000006" / "ema.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 4
    path.write_bytes(raw)
    refused([command[0], str(run_copy), *command[1:]], 1, "ema.safetensors: not as it was written; copy it again")


def test_a_quick_look_loses_no_numbers(run_copy, capsys):
    look = ["evaluate", str(run_copy), "-n", "20", "--repeats", "1", "--metrics"]
    for metric in ("kid", "label_accuracy", "memorisation"):
        assert main([*look, metric]) == 0
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if line.startswith("numbers before")] == [
        f"numbers before: {run_copy / 'evaluation-1.json'}",
        f"numbers before: {run_copy / 'evaluation-2.json'}",
    ]
    kept = [json.loads((run_copy / f"evaluation{k}.json").read_text())["metrics"] for k in ("-1", "-2", "")]
    assert [list(metrics) for metrics in kept] == [["kid"], ["label_accuracy"], ["memorisation"]]
    assert main([*look, "memorisation"]) == 0  # the same numbers again
    assert not (run_copy / "evaluation-3.json").exists()


def test_a_run_that_cannot_take_the_numbers_is_found_before_the_work(run_copy, refused):
    (run_copy / "evaluation.json").mkdir()
    refused(["evaluate", str(run_copy)], 2, "evaluation.json: is a folder")


def test_an_output_that_lacks_a_letter_loses_that_letter_alone(run_copy):
    command = [sys.executable, "-m", "undiffuse", "evaluate", str(run_copy), "-n", "20", "--metrics", "kid"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "\\xb1" in done.stdout and (run_copy / "evaluation.json").exists()


def test_an_output_that_takes_nothing_loses_no_numbers(run_copy):
    command = [sys.executable, "-m", "undiffuse", "evaluate", str(run_copy), "-n", "20", "--metrics", "kid"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=120)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "kid" in json.loads((run_copy / "evaluation.json").read_text())["metrics"]


def test_an_interrupt_is_said(monkeypatch, capsys):
    def interrupted(given):
        raise KeyboardInterrupt

    monkeypatch.setattr("undiffuse.cli.demo.demo", interrupted)
    assert main(["demo"]) == 130
    assert capsys.readouterr().err == "undiffuse: interrupted\n"


@pytest.mark.filterwarnings("always::undiffuse.evaluation.measures.MeasureWarning")
def test_fewer_images_than_features_are_measured_with_a_warning(place, capsys):
    assert main(["evaluate", "good.npz", "--data", "digits", "--metrics", "frechet"]) == 0
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith("undiffuse: warning: the Frechet distance of 20 images by 64 features is too large")
    assert out.splitlines()[1].startswith("frechet")


def test_statistics_of_other_images_or_cut_ones_change_no_number(place, capsys, monkeypatch):
    """Those of the digits 0 and 1 under the name of those of all digits, then half of the right ones."""
    monkeypatch.setattr("undiffuse.files.cache.folder", lambda kind="": place / "cache")
    given = ["evaluate", "good.npz", "--data", "digits", "--metrics", "kid"]
    assert main(given) == 0
    first = capsys.readouterr()
    (kept,) = (place / "cache").iterdir()
    right = kept.read_bytes()
    kept.unlink()
    RealImages.of(digits().restricted(["0", "1"]), "pixels").held_out()
    (other,) = kept.parent.iterdir()
    assert other != kept
    for damaged in (other.read_bytes(), right[: len(right) // 2]):
        kept.write_bytes(damaged)
        assert main(given) == 0
        assert capsys.readouterr() == first
        assert len(kept.read_bytes()) == len(right)  # made again


def test_guidance_on_a_model_trained_without_label_dropout(tmp_path, refused):
    run = tiny.trained(tmp_path / "run", train__label_dropout=0.0, train__steps=1)
    before = tiny.tree(tmp_path)
    refused(["sample", str(run), "--out", str(tmp_path / "x.png"), "--guidance", "2"], 2, "label_dropout above 0")
    assert tiny.tree(tmp_path) == before


def test_another_job_in_the_folder_is_refused_and_nothing_is_lost(tiny_run, tmp_path, refused):
    given = ["sample", str(tiny_run), "--out", str(tmp_path / "x"), "-n", "3"]
    assert main(given) == 0
    before = tiny.tree(tmp_path)
    differs = {"--seed": "seed (0 there, 1 here)", "--steps": "steps (5 there, 1 here)"}
    for option, words in differs.items():
        refused([*given, option, "1"], 2, f"differs in {words}; choose another folder", progress=True)
    refused([*given, "--format", "tar"], 2, "differs in format (png there, tar here)", progress=True)
    refused([*given, "-n", "4"], 2, "differs in n (3 there, 4 here)", progress=True)
    refused([*given, "--weights", "raw"], 2, "differs in the model's weights", progress=True)
    (tmp_path / "x" / "job.json").write_text("junk")
    refused(given, 1, "job.json: does not say what was asked for", progress=True)
    (tmp_path / "x" / "job.json").write_bytes(before["x/job.json"])
    assert tiny.tree(tmp_path) == before


def test_several_processes_do_not_share_a_file(tiny_run, tmp_path, refused, capsys, monkeypatch):
    """Each machine says so once, as its files may be the trouble."""
    arguments = ["sample", str(tiny_run), "--out", str(tmp_path / "x.npz")]
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "0")
    refused(arguments, 2, "several processes can share a folder, not")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(arguments) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.filterwarnings("always::undiffuse.processes.ranks.ProcessWarning")
def test_accelerate_that_starts_one_process_is_told_of(tiny_run, tmp_path, capsys, monkeypatch):
    """As it does on CPUs whatever --num_processes says."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "False")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert main(["sample", str(tiny_run), "--out", str(tmp_path / "x"), "-n", "1"]) == 0
    said = (
        "undiffuse: warning: accelerate started one process; for several on CPUs add --multi_gpu, which means them too"
    )
    assert said in capsys.readouterr().err.splitlines()


def test_an_old_file_survives_a_refusal(tiny_run, tmp_path, refused):
    (tmp_path / "x.npz").write_text("mine")
    for option in (["--label", "99"], ["--steps", "999"], ["--sampler", "none"]):
        refused(["sample", str(tiny_run), "--out", str(tmp_path / "x.npz"), *option], 2, "")
    assert (tmp_path / "x.npz").read_text() == "mine"


@pytest.mark.parametrize(
    "text", ['"' * 2, "[" * 50_000, "[]", "{}", '{"000000.png": "x"}', '{"000000.png": 1e999}', '{"000000.png": 1e30}']
)
def test_broken_labels_beside_pictures(tmp_path, refused, text):
    from undiffuse.images import write_png

    write_png(tmp_path / "000000.png", np.zeros((8, 8, 1), np.uint8))
    (tmp_path / "labels.json").write_text(text)
    refused(["evaluate", str(tmp_path), "--data", "digits"], 1, "labels.json: must map every picture's name")


def test_pictures_that_are_none(tmp_path, refused):
    from undiffuse.images import write_png

    write_png(tmp_path / "a.png", np.zeros((8, 8, 1), np.uint8))
    for spoil in ("junk", "folder", "dangling link"):
        path = tmp_path / "b.png"
        if spoil == "junk":
            path.write_bytes((tmp_path / "a.png").read_bytes()[:45])
        elif spoil == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "nowhere")
        refused(["evaluate", str(tmp_path), "--data", "digits"], 1, "b.png: not a readable picture")
        path.rmdir() if path.is_dir() else path.unlink()


def test_a_run_folder_deleted_while_training_ends_in_one_line(tmp_path, monkeypatch, refused):
    import shutil

    from undiffuse.files.run import RunFolder

    (tmp_path / TINY).write_text(tiny.config().as_yaml())
    real = RunFolder.log

    def log(self, record, log=None):
        shutil.rmtree(self.path, ignore_errors=True)
        real(self, record, log)

    monkeypatch.setattr(RunFolder, "log", log)
    refused(["train", str(tmp_path / TINY), "--out", str(tmp_path / "run")], 1, "metrics.jsonl", progress=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder(tiny_run, tmp_path, refused):
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o555)
    refused(["sample", str(tiny_run), "--out", str(folder / "x.png")], 1, "cannot be written")
