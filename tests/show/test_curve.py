import math

import pytest
from matplotlib.image import imread

from onehour.show.curve import draw_curve, points, round_ticks, save_curve

ROWS = [{"step": step, "loss": 10 / step} for step in range(10, 101, 10)]
ROWS[4]["held_out_loss"] = 0.3
ROWS[9]["held_out_loss"] = 0.2


def test_the_terminal_curve_has_its_size_and_both_losses():
    lines = draw_curve(ROWS, width=60, height=14, colorless=True).splitlines()
    assert len(lines) == 14
    assert {len(line) for line in lines} == {60}
    assert sum(line.count("●") for line in lines[1:]) == 2
    assert any("\u2801" <= sign <= "\u28ff" for line in lines[1:] for sign in line)  # braille
    assert lines[-1].split() == ["0", "20", "40", "60", "80", "100"]


def test_colors_are_for_terminals():
    assert "\033" in draw_curve(ROWS, width=60)
    assert "\033" not in draw_curve(ROWS, width=60, colorless=True)


def test_the_picture(tmp_path):
    picture = imread(save_curve(ROWS, "toy-1", tmp_path / "curve.png"))
    assert picture.shape == (540, 960, 4)
    assert picture[..., :3].min() < 0.3


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[:1],
        [{"step": 1, "loss": 0.0, "held_out_loss": 0.0}],
        [{"step": 1, "loss": 2.0, "held_out_loss": math.nan}, {"step": 2, "loss": 1.0, "held_out_loss": math.inf}],
        [{"step": 1, "loss": 1e-9}, {"step": 1_000_000, "loss": 3e5}],
    ],
)
def test_runs_of_few_and_strange_reports(rows, tmp_path):
    assert draw_curve(rows, width=60, colorless=True)
    assert save_curve(rows, "x", tmp_path / "curve.png").is_file()


def test_points_are_finite():
    rows = [{"step": 1, "loss": 2.0}, {"step": 2, "held_out_loss": 1.0}, {"step": 3, "loss": math.nan}]
    assert points(rows, "loss") == ([1], [2.0])


def test_ticks_are_round_and_enclose_the_values():
    assert round_ticks([0.0861, 2.28]) == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
