"""A run's evaluations as a table."""

from typing import Any


def evaluations_text(rows: list[dict[str, Any]]) -> str:
    """One line for each evaluation: step, training loss and every held-out metric."""
    evaluated = [row for row in rows if "held_out_loss" in row]
    if not evaluated:
        return "no evaluation yet"
    names = [name for name in evaluated[-1] if name.startswith("held_out_")]
    header = ["step", "loss", *(name.removeprefix("held_out_").replace("_", " ") for name in names)]
    lines = [[f"{row['step']:,}", f"{row['loss']:.4f}", *(f"{row[name]:.4f}" for name in names)] for row in evaluated]
    return align([header[:2] + [f"held-out {name}" for name in header[2:]], *lines])


def align(lines: list[list[str]]) -> str:
    """Cells as columns, aligned to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
