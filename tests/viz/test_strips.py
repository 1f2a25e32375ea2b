"""Strips: the pictures come back out of the drawn sheet pixel for pixel, with names and times beside them."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import undiffuse as ud
from undiffuse.errors import UndiffuseError
from undiffuse.images import to_hwc
from undiffuse.viz.strips import forward_strips, neighbour_strips, reverse_strips, sample_grid

TIMES = [0, 100.5, 1000]


def drawn(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].texts]


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def cells(figure: Figure) -> list[np.ndarray]:
    """What the sheet shows at each picture's place, uint8 [h, w, 3], in drawing order."""
    sheet, out = drawn(figure), []
    for image in figure.axes[0].images:
        left, right, bottom, top = (round(edge) for edge in image.get_extent())
        out.append(sheet[top:bottom, left:right])
    return out


def assert_shows(cell: np.ndarray, picture: np.ndarray) -> None:
    h, w = picture.shape[:2]
    scale = cell.shape[0] // h
    assert cell.shape == (h * scale, w * scale, 3)
    np.testing.assert_array_equal(cell, np.broadcast_to(picture, (h, w, 3)).repeat(scale, 0).repeat(scale, 1))


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8, 3), (28, 20, 1), (150, 200, 3)])
def test_every_pixel_of_every_picture_is_on_the_sheet(shape):
    rows = {"linear": pictures(3, *shape), "cosine": pictures(3, *shape)[::-1]}
    shown = cells(forward_strips(rows, TIMES))
    assert len(shown) == 6
    for cell, picture in zip(shown, np.concatenate(list(rows.values())), strict=True):
        assert_shows(cell, picture)


def test_neighbours_stand_below_each_other_with_their_distances():
    generated, train, held_out = pictures(3, 6, 8, 8, 1)
    near, far = [0.0, 0.5, 1.0, 1.25, 12.345, 2.0], [3.0] * 6
    figure = neighbour_strips(generated, {"in training": (train, near), "held out": (held_out, far)})
    shown, tops = cells(figure), [round(image.get_extent()[3]) for image in figure.axes[0].images]
    lefts = [round(image.get_extent()[0]) for image in figure.axes[0].images]
    order = [*generated[:4], *train[:4], *held_out[:4], *generated[4:], *train[4:], *held_out[4:]]
    for cell, picture in zip(shown, order, strict=True):
        assert_shows(cell, picture)
    assert tops == sorted(tops) and lefts[:4] == lefts[4:8] == lefts[8:12] and lefts[:2] == lefts[12:14]
    written = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert {"generated", "in training", "held out", "0.00", "0.500", "1.25", "12.3"} <= set(written)
    x, y = written["0.500"]
    assert lefts[5] < x < lefts[6] and tops[5] < y < tops[9], "under its own picture, above the next row"
    assert max(y for _, y in written.values()) < figure.axes[0].get_ylim()[0] - 20


def test_pictures_with_alpha_lie_on_paper():
    picture = pictures(1, 8, 8, 4)
    picture[..., 3] = 255
    picture[0, 0, 0] = 0
    (cell,) = cells(sample_grid(picture, ["a"]))
    wanted = picture[0, ..., :3].copy()
    wanted[0, 0] = 255
    assert_shows(cell, wanted)


def test_rows_have_names_and_columns_times():
    figure = forward_strips({"linear": pictures(3, 8, 8, 1), "a$b$": pictures(3, 8, 8, 1)}, TIMES)
    said = texts(figure)
    assert {"linear", "a$b$", "0", "100", "1000", "time t"} <= set(said)
    assert "0 = data" in said[-1]


def test_nothing_is_cut_off_or_written_over_a_picture():
    names = {"a very long name of a noise family": pictures(1, 8, 8, 1)}
    figure = forward_strips(names, [0])
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    width, height = canvas.get_width_height()
    boxes = [text.get_window_extent(canvas.get_renderer()) for text in figure.axes[0].texts]
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)
    assert_shows(cells(figure)[0], names.popitem()[1][0])


def test_reverse_strips_alternate_state_and_guess():
    x, x0 = pictures(2, 3, 8, 8, 1), 255 - pictures(2, 3, 8, 8, 1)
    figure = reverse_strips(x, x0, TIMES[::-1])
    shown = cells(figure)
    assert len(shown) == 12
    for cell, picture in zip(shown, [p for i in range(2) for row in (x[i], x0[i]) for p in row], strict=True):
        assert_shows(cell, picture)
    assert texts(figure).count("state xₜ") == texts(figure).count("guess of x₀") == 2


def test_sample_grid_gathers_classes_in_order_of_appearance():
    images, labels = pictures(5, 8, 8, 1), ["two", "one", "two", "one", "two"]
    figure = sample_grid(images, labels)
    for cell, i in zip(cells(figure), (0, 2, 4, 1, 3), strict=True):
        assert_shows(cell, images[i])
    assert [text for text in texts(figure) if text in labels] == ["two", "one"]


def test_a_real_corruption_grows_noisier_to_the_right():
    process = ud.Process(ud.NoiseSchedule.cosine(1000))
    x0 = torch.linspace(-1, 1, 64).reshape(1, 1, 8, 8).repeat(3, 1, 1, 1)
    row = to_hwc(process.corrupt(x0, np.array(TIMES), ud.rng.fold(0)).x_t)
    shown = [cell[..., 0].astype(float) for cell in cells(forward_strips({"cosine": row}, TIMES))]
    near, far = (np.abs(cell - shown[0]).mean() for cell in shown[1:])
    assert 0 < near < far


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: forward_strips({}, TIMES), "no pictures"),
        (lambda: forward_strips({"a": pictures(2, 8, 8, 1)}, TIMES), "2 pictures at 3 times"),
        (lambda: forward_strips({"a": pictures(3, 8, 8, 1) / 255}, TIMES), "must be uint8"),
        (lambda: forward_strips({"a": pictures(3, 8, 8, 1), "b": pictures(3, 9, 8, 1)}, TIMES), "all alike"),
        (lambda: reverse_strips(pictures(7, 3, 8, 8, 1), pictures(7, 3, 8, 8, 1), TIMES), "n from 1 to 6"),
        (lambda: reverse_strips(pictures(1, 3, 8, 8, 1), pictures(1, 2, 8, 8, 1), TIMES), "two alike"),
        (lambda: sample_grid(pictures(3, 8, 8, 1), ["a"]), "3 pictures, 1 labels"),
        (lambda: sample_grid(pictures(0, 8, 8, 1), []), "0 pictures"),
    ],
)
def test_what_does_not_fit_is_refused(call, said):
    with pytest.raises(UndiffuseError, match=said):
        call()
