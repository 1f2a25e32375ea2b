"""Curves: what they claim can be read off their axes, and odd records do not break them."""

import json
import math

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import undiffuse as ud
from undiffuse.errors import UndiffuseError
from undiffuse.viz.curves import half_time, plot_schedules, plot_training, smooth, to_columns, training_panels


def panel(figure: Figure, title: str) -> Axes:
    return next(axes for axes in figure.axes if axes.get_title(loc="left") == title)


def curve(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    line = next(line for line in axes.lines if str(line.get_label()).startswith(label))
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def ink(figure: Figure) -> np.ndarray:
    """The drawn figure, uint8 [h, w, 4]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def records(n: int) -> list[dict]:
    return [
        {
            "step": 10 * (i + 1),
            "loss": 1 / (1 + i) + 0.1,
            **{f"loss_q{q}": (1 / (1 + i) + 0.1) / q for q in (1, 2, 3, 4)},
            "grad_norm": 0.5,
            "lr": 1e-3,
            "images_per_s": 900.0,
        }
        for i in range(n)
    ]


@pytest.fixture
def schedules() -> dict:
    return {name: getattr(ud.NoiseSchedule, name)(1000) for name in ("linear", "cosine", "sigmoid")}


def test_linear_loses_information_faster_than_cosine_and_sigmoid(schedules):
    left = panel(plot_schedules(schedules), "Information left")
    t, linear = curve(left, "linear")
    middle = (t > 50) & (t < 700)
    for other in ("cosine", "sigmoid"):
        assert (curve(left, other)[1][middle] > linear[middle]).all()
    np.testing.assert_array_equal(linear, schedules["linear"].alpha_bar)


def test_schedule_panels_are_labelled_and_keyed(schedules):
    figure = plot_schedules(schedules)
    assert len(figure.axes) == 3
    for axes in figure.axes:
        assert axes.get_title(loc="left") and axes.get_ylabel()
        assert axes.get_xlabel().startswith("time t")
        said = [text.get_text() for text in axes.get_legend().get_texts()]
        assert [text.split(":")[0] for text in said] == ["linear", "cosine", "sigmoid"]
    assert panel(figure, "Noise added in each step").get_yscale() == "log"


def test_schedules_have_each_a_colour_of_their_own(schedules):
    mine = {"mine": ud.NoiseSchedule.from_betas(np.full(1000, 0.01)), **schedules}
    left = panel(plot_schedules(mine), "Information left")
    colors = {line.get_color() for line in left.lines if ":" in str(line.get_label())}
    assert len(colors) == 4


def test_half_time_is_where_half_the_variance_is_noise(schedules):
    for schedule in schedules.values():
        assert schedule.scales(half_time(schedule))[0] ** 2 == pytest.approx(0.5, abs=1e-9)
    assert half_time(schedules["linear"]) < half_time(schedules["sigmoid"]) < half_time(schedules["cosine"])


def test_zero_terminal_snr_and_a_single_step_are_drawn():
    zero = ud.NoiseSchedule.from_betas(np.append(np.full(50, 0.1), 1.0))
    one = ud.NoiseSchedule.from_betas([0.999])
    assert ink(plot_schedules({"zero": zero, "one": one})).min() < 100


def test_no_schedules_is_an_error():
    with pytest.raises(UndiffuseError, match="no schedules"):
        plot_schedules({})


def test_training_shows_every_quantity_with_its_name():
    figure = plot_training(records(200))
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["Loss", "Loss by quarter of time", "Gradient norm", "Learning rate", "Speed"]
    assert all(axes.get_xlabel() == "step (updates)" and axes.get_ylabel() for axes in figure.axes)
    assert panel(figure, "Loss").get_yscale() == "log"
    assert "images per second" in panel(figure, "Speed").get_ylabel()
    steps, loss = curve(panel(figure, "Loss"), "each record")
    assert steps[0] == 10 and loss[0] == pytest.approx(1.1)
    quarters = panel(figure, "Loss by quarter of time")
    assert len(quarters.lines) == 4
    assert (curve(quarters, "t ≤ T/4")[1] > curve(quarters, "3T/4")[1]).all()
    assert list(training_panels(records(3))) == titles


@pytest.mark.parametrize("n", [1, 2, 29, 30])
def test_few_records_leave_visible_ink(n):
    figure = plot_training(records(n))
    for axes in figure.axes:
        assert axes.lines and all(len(line.get_xdata()) == n for line in axes.lines)
    if n == 1:
        assert all(line.get_marker() == "o" for axes in figure.axes for line in axes.lines), "a line of one is nothing"
        ink(figure)


def test_missing_values_are_skipped_not_drawn():
    lines = records(100)
    for i, hole in enumerate((None, math.nan, math.inf)):
        lines[i]["loss"] = lines[i]["loss_q1"] = hole
    for line in lines:
        line["loss_q4"] = None
        del line["grad_norm"]
    figure = plot_training(lines)
    steps, loss = curve(panel(figure, "Loss"), "each record")
    assert steps[0] == 40 and np.isfinite(loss).all()
    assert len(panel(figure, "Loss by quarter of time").lines) == 3
    assert [text.get_text() for text in panel(figure, "Gradient norm").texts] == ["not recorded"]
    ink(figure)


def test_a_hundred_thousand_records_are_thinned():
    figure = plot_training(records(100_000))
    assert all(len(line.get_xdata()) <= 2000 for axes in figure.axes for line in axes.lines)


def test_a_resumed_run_counts_the_later_line():
    columns = to_columns([{"step": 1, "loss": 5.0}, {"step": 2, "loss": 4.0}, {"step": 1, "loss": 3.0}])
    assert columns["step"].tolist() == [1, 2]
    assert columns["loss"].tolist() == [3.0, 4.0]


@pytest.mark.parametrize(
    ("lines", "said"),
    [([], "nothing was recorded"), ([{"loss": 1.0}], "no 'step'"), ([{"step": 1, "loss": "low"}], "not a number")],
)
def test_bad_records_are_refused(lines, said):
    with pytest.raises(UndiffuseError, match=said):
        plot_training(lines)


def test_smooth_is_a_running_mean_over_what_is_known():
    values = np.array([1.0, 2.0, 3.0, math.nan, 5.0])
    np.testing.assert_allclose(smooth(values, 3), [1.5, 2.0, 2.5, 4.0, 5.0])
    np.testing.assert_allclose(smooth(np.full(9, 7.0), 5), 7.0)
    assert np.isnan(smooth(np.full(4, math.nan), 3)).all()


def test_records_may_come_straight_from_json():
    line = json.loads('{"step": 1, "loss": NaN, "loss_q1": null, "lr": 1e-3}')
    assert np.isnan(to_columns([line])["loss"]).all()
