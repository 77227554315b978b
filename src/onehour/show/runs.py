"""The runs in a folder or in a storage: a line for each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyarrow.fs import FileSystem, FileType

from onehour.training.early_stopping import should_stop
from onehour.training.run import by_step, json_lines
from onehour.training.storage import names_in


@dataclass(frozen=True)
class Summary:
    """What a list of runs tells about one."""

    name: str
    recipe: str
    state: str
    """training, done, or unfinished: ended before its last step, and --resume goes on."""
    row: dict[str, Any]
    """The last row of metrics.jsonl; empty before the first."""
    changed: datetime


def summaries(files: FileSystem, is_training: Callable[[str], bool] = lambda name: False) -> list[Summary]:
    """The runs in a file system, the latest first. Folders that are no runs are passed over.

    Whether a run is being trained, only the machine that trains it can tell, by the lock of its folder.
    """
    found = [summarize(files, name, is_training(name)) for name in names_in(files)]
    return sorted(found, key=lambda summary: summary.changed, reverse=True)


def summarize(files: FileSystem, name: str, training: bool) -> Summary:
    """One run of the file system."""
    with files.open_input_stream(f"{name}/config.json") as file:
        config = json.loads(file.read())
    newest, rows = files.get_file_info(f"{name}/config.json"), list[dict[str, Any]]()
    if (metrics := files.get_file_info(f"{name}/metrics.jsonl")).type == FileType.File:
        newest = metrics
        with files.open_input_stream(metrics.path) as file:
            rows = by_step(json_lines(file.read().decode()))
    state = "training" if training else "done" if is_done(rows, config["train"]["patience"]) else "unfinished"
    changed = datetime.fromtimestamp(newest.mtime.timestamp())
    return Summary(name, config["recipe"]["name"], state, rows[-1] if rows else {}, changed)


def is_done(rows: list[dict[str, Any]], patience: int | None) -> bool:
    """Whether the training has come to its last step, or was stopped early because its held-out loss no longer fell."""
    losses = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    return bool(rows) and (rows[-1]["step"] >= rows[-1]["num_steps"] or should_stop(losses, patience))


def runs_text(found: list[Summary]) -> str:
    """A line for each: name, recipe, state, step, loss, and when it last told something."""
    lines = [("run", "recipe", "state", "step", "loss", "changed")] + [
        (
            one.name, one.recipe, one.state, f"{one.row['step']:,}/{one.row['num_steps']:,}" if one.row else "-",
            loss_text(one.row), f"{one.changed:%d %b %Y %H:%M}",
        )
        for one in found
    ]  # fmt: skip
    widths = [max(len(line[i]) for line in lines) for i in range(6)]
    aligned = (str.ljust, str.ljust, str.ljust, str.rjust, str.ljust, str.ljust)
    cells = (map(lambda do, cell, width: do(cell, width), aligned, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)


def loss_text(row: dict[str, Any]) -> str:
    """The held-out loss where the row has one, else that of the training."""
    if "held_out_loss" in row:
        return f"{row['held_out_loss']:.4f} held out"
    return f"{row['loss']:.4f} training" if row else "-"
