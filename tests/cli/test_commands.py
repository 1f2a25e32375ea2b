"""Each command makes what it says: results on stdout, progress on stderr, files of the promised kind."""

import base64
import json
import re

import numpy as np
import pytest
from PIL import Image

import tiny
from undiffuse import images
from undiffuse.cli import main
from undiffuse.data import generated
from undiffuse.diffusion.samplers import SAMPLERS
from undiffuse.diffusion.samplers.spacing import SPACINGS

pytestmark = pytest.mark.filterwarnings("ignore:the Frechet distance of")  # of few images: said, and so be it here


@pytest.fixture
def command(capsys):
    """Run a command -> (exit status, stdout, stderr)."""

    def run(*arguments) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return status, *capsys.readouterr()

    return run


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "tiny.yaml"
    path.write_text(tiny.config().as_yaml())
    return path


# -- train ----------------------------------------------------------------------------------------------------------


def test_train_makes_a_run_folder_with_pictures_and_a_report(command, recipe, tmp_path, tiny_run):
    run = tmp_path / "ein Lauf é"
    status, out, err = command("train", recipe, "--out", run)
    assert status == 0
    assert out.splitlines() == [
        "digits: training sees 1,347 pictures, 450 held out (as the source says)",
        f"training into {run}",
        f"pictures: {run / 'samples'}",
        f"report: {run / 'report.html'}",
    ]
    assert re.search(r"^step 6/6  loss \d\.\d{4}  lr 1\.0e-02", err, re.M)
    assert (run / "report.html").is_file()
    assert {"samples.png", "denoising.gif"} <= {p.name for p in (run / "samples").iterdir()}
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)
    assert not list(run.rglob("*.writing"))


def test_out_omitted_takes_the_recipes_name_and_counts(command, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "tiny-2"):
        status, out, _ = command("train", recipe, "--set", "train.steps=1")
        assert (status, out.splitlines()[1]) == (0, f"training into runs/{name}")


def test_set_changes_the_recipe_and_the_run_folder_says_so(command, recipe, tmp_path):
    run = tmp_path / "run"
    assert command("train", recipe, "--out", run, "--set", "train.steps=1", "--set", "data.classes=[7, 1]")[0] == 0
    written = (run / "config.yaml").read_text()
    assert "\n  steps: 1\n" in written
    assert "classes: ['1', '7']" in written


def test_resume_goes_on_and_ends_in_the_same_place(command, tiny_run, tmp_path):
    run = tiny.without_later_checkpoints(tiny_run, 2, tmp_path / "run")
    status, out, err = command("train", "--resume", "--out", run)
    assert (status, out.splitlines()[0]) == (0, f"training into {run}, from step 2 of 6")
    assert "step 6/6" in err
    assert tiny.weights(run, 6) == tiny.weights(tiny_run, 6)


# -- sample ---------------------------------------------------------------------------------------------------------


def test_a_png_is_a_sheet_of_all_images(command, tiny_run, tiny_pipe, tmp_path):
    path = tmp_path / "a sheet é.PNG"
    status, out, err = command("sample", tiny_run, "-n", "5", "--out", path)
    assert (status, out) == (0, f"{path}\n")
    assert "step 5/5" in err
    with Image.open(path) as sheet:
        assert sheet.format == "PNG"
        np.testing.assert_array_equal(sheet, images.grid(images.to_hwc(tiny_pipe.sample(n=5)))[..., 0])


def test_a_gif_moves(command, tiny_run, tmp_path):
    assert command("sample", tiny_run, "-n", "3", "--out", tmp_path / "x.gif", "--steps", "7")[0] == 0
    with Image.open(tmp_path / "x.gif") as animation:
        assert animation.format == "GIF"
        assert animation.n_frames > 1


def test_an_npz_holds_images_and_labels_as_promised(command, tiny_run, tiny_pipe, tmp_path):
    path = tmp_path / "x.npz"
    assert command("sample", tiny_run, "-n", "12", "--seed", "3", "--start", "4", "--out", path)[0] == 0
    with np.load(path, allow_pickle=False) as file:
        assert set(file) == {"images", "labels"}
        assert (file["images"].dtype, file["images"].shape) == (np.uint8, (12, 8, 8, 1))
        assert (file["labels"].dtype, file["labels"].tolist()) == (np.int64, [i % 10 for i in range(4, 16)])
        np.testing.assert_array_equal(file["images"], images.to_hwc(tiny_pipe.sample(n=12, seed=3, start=4)))


def test_a_folder_holds_a_file_an_image_named_by_its_index(command, tiny_run, tiny_pipe, tmp_path):
    folder = tmp_path / "some pictures"
    assert command("sample", tiny_run, "-n", "5", "--start", "8", "--out", folder, "--batch-size", "2")[0] == 0
    names = [f"{i:06d}.png" for i in range(8, 13)] + ["job.json", "labels.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    pictures, labels = generated.read_images(folder)
    assert labels.tolist() == [8, 9, 0, 1, 2]
    np.testing.assert_array_equal(pictures, images.to_hwc(tiny_pipe.sample(n=5, start=8, batch_size=2)))


def test_an_empty_folder_may_be_filled(command, tiny_run, tmp_path):
    (tmp_path / "empty").mkdir()
    assert command("sample", tiny_run, "-n", "1", "--out", tmp_path / "empty")[0] == 0


def test_a_full_folder_is_left_alone_and_says_so(command, tiny_run, tmp_path):
    given = ["sample", tiny_run, "-n", "6", "--out", tmp_path / "x", "--batch-size", "4"]
    status, out, err = command(*given)
    assert (status, out) == (0, f"{tmp_path / 'x'}\n")
    assert re.search(r"^image 6/6  \d\S* images/s  \S+ s in all$", err, re.M)
    before = tiny.tree(tmp_path)
    assert command(*given) == (0, f"{tmp_path / 'x'}\n", "all 6 images are there already\n")
    assert tiny.tree(tmp_path) == before


def test_shards_hold_what_a_folder_of_pictures_does(command, tiny_run, tmp_path):
    for kind in ("png", "npz", "tar"):
        given = ["-n", "30", "--out", tmp_path / kind, "--format", kind, "--batch-size", "8"]
        assert command("sample", tiny_run, *given)[0] == 0
        counted = command("check", tmp_path / kind)[1]
        assert re.search(r"^pictures +30 in ", counted, re.M)
        assert "10: 0 3, 1 3, 2 3, 3 3, 4 3, 5 3, 6 3, 7 3, 8 3, 9 3" in counted
    assert len(list((tmp_path / "npz").glob("*.npz"))) == len(list((tmp_path / "tar").glob("*.tar"))) == 4
    pictures = [generated.read_images(tmp_path / kind) for kind in ("png", "npz")]
    for one, other in zip(*pictures, strict=True):
        np.testing.assert_array_equal(one, other)


def test_options_reach_the_sampler(command, tiny_run, tiny_pipe, tmp_path):
    given = ["--guidance", "2", "--sampler", "ddim", "--steps", "7", "--eta", "0.5", "--spacing", "quadratic"]
    assert command("sample", tiny_run, "-n", "3", "--label", "7, 2", "--out", tmp_path / "x.npz", *given)[0] == 0
    pipe = tiny_pipe.configured(guidance=2.0, sampler="ddim", steps=7, eta=0.5, spacing="quadratic")
    with np.load(tmp_path / "x.npz") as file:
        np.testing.assert_array_equal(file["images"], images.to_hwc(pipe.sample(n=3, label=["7", "2"])))
        assert file["labels"].tolist() == [7, 2, 7]


@pytest.mark.parametrize("option", [["--weights", "raw"], ["--checkpoint", "2"], ["--seed", "-7"], ["--device", "cpu"]])
def test_other_weights_checkpoints_and_seeds(command, tiny_run, tmp_path, option):
    for name, extra in (("plain", []), ("other", option)):
        assert command("sample", tiny_run, "-n", "4", "--out", tmp_path / f"{name}.npz", *extra)[0] == 0
    same = (tmp_path / "plain.npz").read_bytes() == (tmp_path / "other.npz").read_bytes()
    assert same == (option[0] == "--device")


def test_a_run_folder_behind_a_link_is_a_model(command, tiny_run, tmp_path):
    (tmp_path / "link").symlink_to(tiny_run)
    assert command("sample", tmp_path / "link", "-n", "1", "--out", tmp_path / "x.png")[0] == 0


# -- evaluate -------------------------------------------------------------------------------------------------------


def test_evaluate_a_model(command, run_copy, tmp_path):
    path = tmp_path / "numbers.json"
    status, out, err = command("evaluate", run_copy, "-n", "20", "--repeats", "2", "--out", path)
    assert status == 0
    assert out.splitlines()[0].split() == ["measure", "value", "real", "images", "unit", "n"]
    assert "image 20/20" in err
    result = json.loads(path.read_text())
    assert set(result) - {"per_class"} == {"metrics", "protocol"}
    for metric in ("frechet", "train_on_generated"):
        assert set(result["metrics"][metric]) == {"value", "stderr", "floor", "unit", "n"}
        assert result["metrics"][metric]["n"] == 40
        assert metric in out
    assert result["protocol"]["seeds"] == [0, 1]
    assert result["per_class"]["kid"] and set(result["per_class"]["kid"]) <= set("0123456789")
    assert not (run_copy / "evaluation.json").exists()  # numbers that go elsewhere leave the run's own alone
    assert not (run_copy / "samples" / "neighbours.png").exists()


def test_evaluate_keeps_its_numbers_in_the_run_and_renews_the_report(command, run_copy):
    status, out, _ = command("evaluate", run_copy, "-n", "20", "--repeats", "1")
    assert status == 0
    assert str(run_copy / "evaluation.json") in out
    assert json.loads((run_copy / "evaluation.json").read_text())["metrics"]["frechet"]["n"] == 20
    report = (run_copy / "report.html").read_text()
    neighbours = run_copy / "samples" / "neighbours.png"
    assert base64.b64encode(neighbours.read_bytes()).decode() in report
    status, _, _ = command("evaluate", run_copy, "-n", "20", "--repeats", "1", "--metrics", "kid")
    assert status == 0 and neighbours.exists()
    report = (run_copy / "report.html").read_text()
    assert "Nearer to training pictures" in report and "Measured earlier (evaluation-1.json)" in report


def test_a_finished_run_says_so_and_what_to_do_for_more(command, run_copy):
    (run_copy / "report.html").write_text("a report")
    status, out, _ = command("train", "--resume", "--out", run_copy)
    assert status == 0 and len(out.splitlines()) == 1
    assert f"{run_copy} is at the last of its 6 steps" in out and f"undiffuse train --from {run_copy}" in out
    (run_copy / "report.html").unlink()  # killed while the pictures were drawn
    assert command("train", "--resume", "--out", run_copy)[0] == 0
    assert (run_copy / "report.html").exists()


def test_a_diffusers_folder_is_evaluated_and_not_resumed(command, run_copy, tmp_path):
    assert command("convert", run_copy, tmp_path / "d", "--to", "diffusers")[0] == 0
    assert command("evaluate", tmp_path / "d", "-n", "20", "--repeats", "1")[0] == 0
    status, _, err = command("train", "--resume", "--out", tmp_path / "d")
    assert (status, len(err.splitlines())) == (2, 1)
    assert "nothing to resume" in err or "no training to resume" in err
    assert not (tmp_path / "d" / "checkpoints").exists()


@pytest.mark.parametrize("kind", ["x.npz", "x"])
def test_evaluating_written_pictures_equals_evaluating_them_in_memory(command, run_copy, tmp_path, kind):
    assert command("sample", run_copy, "-n", "30", "--out", tmp_path / kind)[0] == 0
    out = ["--out", tmp_path / "a.json"]
    assert command("evaluate", tmp_path / kind, "--data", "digits", *out)[0] == 0
    assert command("evaluate", run_copy, "-n", "30", "--repeats", "1", "--out", tmp_path / "b.json")[0] == 0
    a, b = (json.loads((tmp_path / name).read_text())["metrics"] for name in ("a.json", "b.json"))
    assert a["frechet"]["value"] == pytest.approx(b["frechet"]["value"], rel=0.02)
    assert a["train_on_generated"]["floor"] == b["train_on_generated"]["floor"]


def test_a_model_of_one_class_is_measured_by_what_it_allows(command, tmp_path):
    run = tiny.trained(tmp_path / "run", data__classes=["3"])
    status, out, _ = command("evaluate", run, "-n", "20", "--repeats", "1")
    assert (status, "frechet" in out, "train_on_generated" in out) == (0, True, False)


# -- plot and the rest ----------------------------------------------------------------------------------------------


def test_plots_are_pictures(command, tiny_run, tmp_path):
    given = [("schedules", "-T", "100"), ("forward", "-T", "100", "--row", "3"), ("reverse", tiny_run, "-n", "2")]
    for name, *arguments in given:
        path = tmp_path / f"{name}.png"
        assert command("plot", name, *arguments, "--out", path)[:2] == (0, f"{path}\n")
        with Image.open(path) as picture:
            assert picture.format == "PNG"


def test_help_names_every_command_that_this_version_has(command):
    status, out, err = command("--help")
    assert (status, err) == (0, "")
    for name in ("demo", "train", "sample", "evaluate", "plot", "convert"):
        assert re.search(rf"\b{name}\b", out)


@pytest.mark.parametrize("name", ["sample", "edit"])
def test_help_names_every_sampler_and_spacing(command, name):
    status, out, _ = command(name, "--help")
    words = set(re.findall(r"[a-z_0-9-]+", out))
    assert status == 0 and {*SAMPLERS, *SPACINGS, "log-snr", "karras", "fitted", "auto"} <= words
