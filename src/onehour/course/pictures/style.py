"""How the pictures of the course look: SVG on a light card, so that a dark page shows them as well."""

import io
import logging
import re
import warnings
from typing import Any

import matplotlib as mpl
from cycler import cycler
from IPython.display import SVG
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b7dab", "#d9480f", "#2b8a3e", "#7048b6", "#868e96"  # in this order
INK, PAPER = "#212529", "#fcfcfa"
WIDEST = 9.0  # inches, of the pictures of the course

# Text stays text, drawn by the fonts of whoever reads it: nobody has to install one for Chinese.
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "onehour",  # the same picture has the same bytes
    "font.family": ["Noto Sans CJK SC", "PingFang SC", "Microsoft YaHei", "DejaVu Sans", "sans-serif"],
    "font.size": 11,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=[BLUE, ORANGE, GREEN, PURPLE, GREY]),
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "legend.frameon": False,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "axes.unicode_minus": False,
}


def new_figure(width: float = 8, height: float = 4) -> Figure:
    """An empty figure in the style of the course; width and height in inches."""
    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)  # which of the fonts are not here
    mpl.rcParams.update(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def as_svg(figure: Figure) -> SVG:
    """A figure as the last line of a cell shows it: as wide as the page.

    JupyterLab and nbconvert put it into an <img>, which no style in it reaches: only a width in percent makes it fit a
    narrow page. A picture narrower than WIDEST gets an empty margin, so that text has one size in all of a page.
    Where a page has it inline, it grows no larger than it was drawn.
    """
    content = io.StringIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # the fonts here lack a letter, which the reader's may have
        figure.savefig(content, format="svg", metadata={"Date": None})
    width, height = 72 * max(figure.get_figwidth(), WIDEST), 72 * figure.get_figheight()  # an inch has 72 points
    size = f'style="max-width: {width:g}pt" width="100%" viewBox="0 0 {width:g} {height:g}"'
    return SVG(re.sub(r'width="\S+" height="\S+" viewBox=".*?"', size, content.getvalue(), count=1))
