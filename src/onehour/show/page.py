"""Runs as one HTML page that needs no network: curves to look into, results, differences, configurations."""

import html
import json
import math
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from onehour.show.compare import COLORS, differences, options_of, results
from onehour.show.curve import points
from onehour.training.run import Run

MOST_POINTS = 2000  # of a curve; a screen shows no more


def save_page(runs: Sequence[Run], path: Path) -> Path:
    """Write the page to `path`; it holds all numbers, its style and its script."""
    template = files("onehour.show").joinpath("page.html").read_text(encoding="utf-8")
    title = ", ".join(run.name for run in runs)
    page = template.replace("{{title}}", html.escape(title)).replace("{{data}}", for_script(page_data(runs)))
    path.write_text(page, encoding="utf-8")
    return path


def for_script(data: Any) -> str:
    """JSON that may stand inside a script element: nothing in it can end the element."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c")


def page_data(runs: Sequence[Run]) -> dict[str, Any]:
    """What the page's script draws."""
    return {
        "runs": [
            {
                "name": run.name,
                "color": COLORS[i % len(COLORS)],
                "curves": curves(run.rows()),
                "results": results(run),
                "options": {name: str(value) for name, value in options_of(run).items() if value is not None},
                "warnings": run.warnings(),
                "folder": str(run.folder),
            }
            for i, run in enumerate(runs)
        ],
        "differences": differences(runs),
    }


def curves(rows: list[dict[str, Any]]) -> dict[str, list[list[float]]]:
    """Steps and values of each metric that changes, as a list of pairs, thinned to what a screen can show."""
    names = dict.fromkeys(name for row in rows for name, value in row.items() if type(value) in (int, float))
    found = {name: list(zip(*points(rows, name), strict=True)) for name in names if name not in ("step", "num_steps")}
    return {name: [list(pair) for pair in thin(pairs)] for name, pairs in found.items() if pairs}


def thin(pairs: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Every n-th pair, and the last one."""
    every = math.ceil(len(pairs) / MOST_POINTS)
    return pairs if every == 1 else [*pairs[:-1:every], pairs[-1]]
