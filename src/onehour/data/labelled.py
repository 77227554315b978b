"""Texts with labels: from CSV, JSON lines or Parquet, or functions of the standard library with the package they are in."""

import ast
import csv
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from onehour.data.conversations import place, rows_of
from onehour.data.sources import Source
from onehour.data.text import by_chance, read_file
from onehour.errors import InputError

NUM_FILES = 10  # that a package has to have: whole files are held out, and some have to stay
TABLES = "encodings"  # generated, and alike


@dataclass(frozen=True)
class Labelled:
    """A text, its label, and the name of what it stands in: the same on every machine."""

    name: str
    text: str
    label: str


def read_labelled(sources: Sequence[Source], text: str, label: str) -> Iterator[Labelled]:
    """The rows of .csv (or .tsv), .jsonl and .parquet files, by the names of two columns.

    Raises:
        InputError: a file has no such columns, or a row has nothing in them; names the line.
    """
    for source in sources:
        for number, row in table_rows(source):
            where = f"{source.path}, {place(source, number)}"
            if not isinstance(row, dict) or not {text, label} <= row.keys():
                there = ", ".join(map(str, row)) if isinstance(row, dict) else type(row).__name__
                raise InputError(
                    f"{where} has {there}, and no {' or '.join(n for n in (text, label) if n not in row)}; name the columns "
                    "by --text-column and --label-column."
                )
            for column in (text, label):
                if row[column] is None or not str(row[column]).strip():
                    raise InputError(f"{where} has nothing in its column {column!r}; mend it or take it out.")
            yield Labelled(f"{source.name}#{number}", str(row[text]), str(row[label]))


def table_rows(source: Source) -> Iterator[tuple[int, Any]]:
    """The rows of a file with their numbers; those of a table count from the line after its header, 2."""
    if not source.name.endswith((".csv", ".tsv")):
        yield from rows_of(source)
        return
    try:
        lines = read_file(source).decode("utf-8-sig").splitlines(keepends=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{source.path} is not UTF-8 text ({error}); save it as UTF-8.") from error
    reader = csv.DictReader(lines, delimiter="\t" if source.name.endswith(".tsv") else ",", strict=True)
    read = 1  # lines, of which a row may have several
    try:
        for row in reader:
            if None in row or None in row.values():  # too many fields, or too few
                raise csv.Error(f"it has not {len(reader.fieldnames or ())} fields, as the header has")
            yield read + 1, row
            read = reader.line_num
    except csv.Error as error:
        raise InputError(f"{source.path}, line {read + 1}: {error}; mend it or take it out.") from error


def functions_by_package(sources: Sequence[Source]) -> list[Labelled]:
    """The functions of the library's larger packages, each with its package as the label, by name of its file."""
    found: dict[str, dict[str, list[Labelled]]] = defaultdict(dict)
    for source in sources:
        package, slash, _ = source.name.partition("/")
        if slash and package != TABLES:
            functions = [Labelled(source.name, text, package) for text in functions_in(read_file(source).decode())]
            found[package] |= {source.name: functions} if functions else {}
    large = [files for files in found.values() if len(files) >= NUM_FILES]
    return [function for files in large for functions in files.values() for function in functions]


def functions_in(text: str) -> Iterator[str]:
    """The source of each function that has two lines or more, without the functions inside another one."""
    lines, end = text.splitlines(), 0
    for node in sorted(functions_of(ast.parse(text)), key=lambda node: node.lineno):
        if node.lineno > end and node.end_lineno and node.end_lineno > node.lineno:
            end = node.end_lineno
            yield "\n".join(lines[node.lineno - 1 : end])


def functions_of(tree: ast.Module) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """All functions and methods."""
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def split(rows: Iterable[Labelled], share: int) -> tuple[list[Labelled], list[Labelled]]:
    """Those to train on and those to evaluate on: of each label one in `share` of the names, and at least one of several.

    Rows of one name stay together, and which are held out is the same on every machine.
    """
    names: dict[str, dict[str, None]] = defaultdict(dict)
    rows = list(rows)
    for row in rows:
        names[row.label][row.name] = None
    held_out = set()
    for of_label in names.values():
        num = min(max(1, len(of_label) // share), len(of_label) - 1)
        held_out.update(sorted(of_label, key=by_chance)[:num])
    return [row for row in rows if row.name not in held_out], [row for row in rows if row.name in held_out]


def labels_of(train: Sequence[Labelled], held_out: Sequence[Labelled], where: str) -> list[str]:
    """The labels, sorted.

    Raises:
        InputError: there is only one, or one that is held out is never trained.
    """
    labels, others = sorted({row.label for row in train}), sorted({row.label for row in held_out})
    if len(labels) < 2:
        raise InputError(
            f"{where} has only the label {labels[0] if labels else 'of no row'}; give data of two or more."
        )
    if strange := [label for label in others if label not in labels]:
        raise InputError(
            f"The label {strange[0]!r} is among those held out ({', '.join(others)}) and not among those trained "
            f"({', '.join(labels)}); give both the same labels."
        )
    return labels
