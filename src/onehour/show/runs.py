"""The runs in a folder or in a storage, and the searches and scalings that have runs in them: a line for each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSystem, FileType

from onehour.show.table import words
from onehour.show.terminal import count
from onehour.training.early_stopping import should_stop
from onehour.training.run import by_step, json_lines
from onehour.training.storage import names_in
from onehour.training.trials import ENDED


@dataclass(frozen=True)
class Summary:
    """What the list tells about a run, a search or a scaling."""

    name: str
    recipe: str
    state: str
    """done, or unfinished: ended before its end, and --resume goes on with a run or a search; or, while it is at work,
    training, searching, measuring."""
    step: str
    """How far it has come."""
    loss: str
    changed: datetime


def summaries(files: FileSystem, at_work: Callable[[str], bool] = lambda name: False) -> list[Summary]:
    """What there is in a file system, the latest first. Other folders are passed over.

    Whether something is at work, only the machine that does it can tell, by the lock of its folder.
    """
    found = [KINDS[mark](files, name, at_work(name)) for mark in KINDS for name in names_in(files, (mark,))]
    return sorted(found, key=lambda summary: summary.changed, reverse=True)


def run_summary(files: FileSystem, name: str, training: bool) -> Summary:
    """A run."""
    config, newest, rows = read_json(files, f"{name}/config.json"), f"{name}/config.json", list[dict[str, Any]]()
    if is_file(files.get_file_info(f"{name}/metrics.jsonl")):
        newest = f"{name}/metrics.jsonl"
        with files.open_input_stream(newest) as file:
            rows = by_step(json_lines(file.read().decode()))
    state = "training" if training else "done" if is_done(rows, config["train"]["patience"]) else "unfinished"
    last = rows[-1] if rows else {}
    step = f"{last['step']:,}/{last['num_steps']:,}" if last else "-"
    return Summary(name, config["recipe"]["name"], state, step, loss_text(last), changed(files, newest))


def is_done(rows: list[dict[str, Any]], patience: int | None) -> bool:
    """Whether the training has come to its last step, or was stopped early because its held-out loss no longer fell."""
    losses = [row["held_out_loss"] for row in rows if "held_out_loss" in row]
    return bool(rows) and (rows[-1]["step"] >= rows[-1]["num_steps"] or should_stop(losses, patience))


def search_summary(files: FileSystem, name: str, searching: bool) -> Summary:
    """A search: how many of its trials have ended, and the best value of the metric that decides."""
    asked, newest, rows = read_json(files, f"{name}/search.json"), f"{name}/search.json", list[dict[str, Any]]()
    if is_file(files.get_file_info(f"{name}/results.parquet")):
        newest = f"{name}/results.parquet"
        with files.open_input_file(newest) as file:
            rows = pq.read_table(file).to_pylist()
    ended, wanted = sum(row["state"] in ENDED for row in rows), asked["num_trials"]
    state = "searching" if searching else "done" if ended >= wanted else "unfinished"
    metric = asked["search"]["maximize"] or asked["search"]["minimize"]
    values = [row[metric] for row in rows if row.get(metric) is not None]
    best = (max if asked["search"]["maximize"] else min)(values, default=None)
    loss = "-" if best is None else f"{best:.4f} held out, the best {words(metric)}"
    return Summary(
        name, asked["recipe"]["name"], state, f"{ended}/{count(wanted, 'trial')}", loss, changed(files, newest)
    )


def scaling_summary(files: FileSystem, name: str, measuring: bool) -> Summary:
    """A scaling: at how many of its sizes the training was measured."""
    content = read_json(files, f"{name}/scaling.json")
    state = "measuring" if measuring else "done" if content["model"] else "unfinished"
    step = f"{len(content['sizes'])}/{count(len(content['workers']), 'size')}"
    return Summary(name, content["recipe"]["name"], state, step, "-", changed(files, f"{name}/scaling.json"))


KINDS = {"config.json": run_summary, "search.json": search_summary, "scaling.json": scaling_summary}


def read_json(files: FileSystem, path: str) -> Any:
    """The content of a JSON file."""
    with files.open_input_stream(path) as file:
        return json.loads(file.read())


def is_file(info: FileInfo) -> bool:
    """Whether there is a file."""
    return bool(info.type == FileType.File)


def changed(files: FileSystem, path: str) -> datetime:
    """When a file was written, in local time."""
    return datetime.fromtimestamp(files.get_file_info(path).mtime.timestamp())


def runs_text(found: list[Summary]) -> str:
    """A line for each: name, recipe, state, how far, loss, and when it last told something."""
    lines = [["run", "recipe", "state", "step", "loss", "changed"]] + [
        [one.name, one.recipe, one.state, one.step, one.loss, f"{one.changed:%d %b %Y %H:%M}"] for one in found
    ]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = (str.ljust, str.ljust, str.ljust, str.rjust, str.ljust, str.ljust)
    cells = (map(lambda do, cell, width: do(cell, width), aligned, line, widths) for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in cells)


def loss_text(row: dict[str, Any]) -> str:
    """The held-out loss where the row has one, else that of the training."""
    if "held_out_loss" in row:
        return f"{row['held_out_loss']:.4f} held out"
    return f"{row['loss']:.4f} training" if row else "-"
