"""A run as text: its evaluations as a table, its configuration as lines."""

import json
import shutil
import textwrap
from pathlib import Path
from typing import Any

from onehour.config import profiled_steps

NUM_SHOWN = 20
TOGETHER = "\N{NO-BREAK SPACE}"


def evaluations_text(rows: list[dict[str, Any]]) -> str:
    """One line for each evaluation, the last ones: step, training loss, every held-out metric; the best is marked."""
    evaluated = [row for row in rows if "held_out_loss" in row]
    if not evaluated:
        return "no evaluation yet"
    names = [name for name in evaluated[-1] if name.startswith("held_out_")]
    best = min(evaluated, key=lambda row: float(row["held_out_loss"]))
    lines = [["step", "training loss", *(f"held-out {words(name)}" for name in names), ""]]
    for row in evaluated[-NUM_SHOWN:]:
        values = [f"{row[name]:.4f}" if name in row else "-" for name in ("loss", *names)]
        lines.append([f"{row['step']:,}", *values, "lowest" if row is best and len(evaluated) > 1 else ""])
    earlier = len(evaluated) - NUM_SHOWN
    return align(lines) + (f"\n{earlier:,} earlier evaluations are in metrics.jsonl" if earlier > 0 else "")


def tables_text(row: dict[str, Any], facts: dict[str, Any]) -> str:
    """The confusion matrix of an evaluation, if it has one: a line for each label that samples have."""
    if "confusion" not in row:
        return ""
    names = [label[:16] for label in facts["labels"]]
    lines = [
        ["", *names],
        *([name, *(f"{n:,}" for n in line)] for name, line in zip(names, row["confusion"], strict=True)),
    ]
    return f"how many of each line's label were given each column's\n{align(lines)}\n\n"


def operations_text(operations: list[dict[str, Any]]) -> str:
    """The operations of a profile that took longest: their own time, their share of it, how often they were called."""
    lines = [["operation", "ms", "share", "calls"]] + [
        [row["name"][:40], f"{1000 * row['seconds']:,.2f}", f"{row['share']:.1%}", f"{row['calls']:,}"]
        for row in operations
    ]
    return align(lines)


def profile_text(folder: Path, steps: str, num_done: int) -> str:
    """The longest operations of the profile in a folder, and where its traces are, if the training came so far."""
    last = profiled_steps(steps)[1]
    if num_done < last:
        return f"profile    none: the training ended at step {num_done:,}, before step {last:,}"
    if not (folder / "operations.json").is_file():  # rank 0 is on a node that does not share the run's folder
        return f"profile    {folder} on the node of each worker: open it at ui.perfetto.dev"
    operations = operations_text(json.loads((folder / "operations.json").read_text()))
    return f"{operations}\n\nprofile    {folder}, a trace for each rank: open it at ui.perfetto.dev"


def words(name: str) -> str:
    """The name of a held-out metric as one says it: held_out_bits_per_byte is bits per byte."""
    return name.removeprefix("held_out_").replace("_", " ")


def align(lines: list[list[str]]) -> str:
    """Cells as columns, aligned to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    text = ("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in text)


def configuration_text(config: dict[str, Any], newest: Path | None) -> str:
    """The content of config.json as lines, and the newest good checkpoint."""
    recipe = config["recipe"]
    return "\n".join(
        labelled(name, text)
        for name, text in {
            "recipe": ", ".join([recipe["name"], *settings(recipe["options"])]),
            "training": ", ".join(settings(config["train"])),
            "scale": ", ".join(settings(config["scale"])),
            "versions": ", ".join(settings(config["versions"])),
            "checkpoint": newest.name if newest else "none yet",
        }.items()
    )


def settings(options: dict[str, Any]) -> list[str]:
    """Options that are set, as "name value", which stays on one line."""
    return [f"{name}{TOGETHER}{value}" for name, value in options.items() if value is not None]


def labelled(label: str, text: str, indent: int = 11) -> str:
    """A label and its text, wrapped to the terminal and aligned; TOGETHER becomes a space at which no line breaks."""
    lines = textwrap.fill(
        text, max(40, shutil.get_terminal_size().columns), initial_indent=label.ljust(indent),
        subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
    return lines.replace(TOGETHER, " ")
