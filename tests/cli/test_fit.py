"""fit: times are kept with the model, and used from then on for few steps."""

import pytest
import torch

import tiny
from undiffuse.cli import main
from undiffuse.errors import UsageError
from undiffuse.pipeline import Pipeline


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tiny.trained(tmp_path_factory.mktemp("fit") / "run")
    assert main(["fit", str(out), "-n", "4"]) == 0
    return out


def test_fitted_times_are_the_default_for_few_steps(run):
    pipe = Pipeline.load(run)
    assert pipe.config.sample.spacing == "auto"
    assert pipe.times() == pipe.fitted.times(5, 1) != pipe.configured(spacing="uniform").times()
    assert pipe.configured(sampler="unipc", spacing="fitted").times() == pipe.fitted.times(5, 2)
    assert pipe.configured(spacing="fitted", sampler="ancestral").times() == pipe.fitted.times(5, 1)


def test_for_more_than_ten_steps_they_must_be_asked_for(run):
    pipe = Pipeline.load(run)
    known, at_ten, at_eleven = pipe.fitted, pipe.configured(steps=10), pipe.configured(steps=11)
    assert at_ten.times() == known.times(10, 1) != at_ten.configured(spacing="uniform").times()
    assert at_eleven.times() == at_eleven.configured(spacing="uniform").times() != known.times(11, 1)


@pytest.mark.parametrize("changes", [{"sampler": "ancestral"}, {"sampler": "pndm"}, {"eta": 0.5}, {"sampler": "unipc"}])
def test_not_where_they_were_not_fitted_for(run, changes):
    pipe = Pipeline.load(run).configured(**changes)
    assert pipe.times() == pipe.configured(spacing="uniform").times()


def test_they_go_where_the_model_goes(run, tmp_path):
    copy = Pipeline.load(Pipeline.load(run).save(tmp_path / "copy"))
    assert copy.fitted == Pipeline.load(run).fitted
    assert torch.equal(copy.sample(2), Pipeline.load(run).sample(2))


def test_fitting_again_is_the_same(run, tmp_path):
    before = (run / "times.json").read_text()
    assert main(["fit", str(run), "-n", "4"]) == 0
    assert (run / "times.json").read_text() == before


def test_without_them_fitted_is_refused(tmp_path, capsys):
    out = tiny.trained(tmp_path / "run")
    with pytest.raises(UsageError, match="undiffuse fit MODEL"):
        Pipeline.load(out).configured(spacing="fitted").times()
    assert main(["sample", str(out), "--out", str(tmp_path / "x.png"), "--spacing", "fitted"]) == 2


def test_junk_times_are_one_line(tmp_path, capsys):
    out = tiny.trained(tmp_path / "run")
    (out / "times.json").write_text("{")
    assert main(["sample", str(out), "--out", str(tmp_path / "x.png")]) == 1
    assert "times.json: not fitted times" in capsys.readouterr().err


def test_another_sampler_than_ddim_has_no_eta(run):
    pipe = Pipeline.load(run).configured(eta=0.5)
    assert pipe.configured(sampler="heun").config.sample.eta == 0
    assert pipe.configured(steps=3).config.sample.eta == 0.5
    with pytest.raises(UsageError, match="eta is for the sampler 'ddim'"):
        pipe.configured(sampler="heun", eta=0.2).check()


def test_damaged_times_are_made_again_as_told(run, tmp_path):
    copy = Pipeline.load(run).save(tmp_path / "copy")
    (copy / "times.json").write_text("junk")
    assert main(["sample", str(copy), "--out", str(tmp_path / "x.png"), "-n", "1"]) == 1
    assert main(["fit", str(copy), "-n", "4"]) == 0
    assert Pipeline.load(copy).fitted == Pipeline.load(run).fitted


def test_a_run_that_goes_astray_fits_nothing(run, tmp_path, capsys):
    copy = Pipeline.load(run).save(tmp_path / "copy")
    before = (copy / "times.json").read_text()
    assert main(["fit", str(copy), "-n", "4", "--guidance", "1e39"]) == 1
    assert "the reference run gave NaN or infinity" in capsys.readouterr().err
    assert (copy / "times.json").read_text() == before
