"""Preparing data by one process and by many: python bench/prepare.py [--megabytes 256] [--vocab-size 256] [--rounds 3]

The source of the standard library, repeated to that size as Parquet files, through `onehour prepare`: MB of text a
second from the shell to the prompt, as ratios of pairs in turn to this process without Ray, and the memory of the
largest process. With --vocab-size above 256 the byte pairs are learned first, by one process each time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from onehour.data.arrow import Rows
from onehour.data.sources import standard_library
from onehour.data.text import read_documents
from watch import ratio

FILES = 8


def write_corpus(folder: Path, megabytes: int) -> float:
    """FILES Parquet files of the library's text, over and over; returns how many MB of text are in them."""
    documents = [document.decode(errors="replace") for document in read_documents(standard_library())]
    times = round(megabytes * 1e6 / sum(map(len, documents)) / FILES)
    for number in range(FILES):
        table = pa.table({"text": documents * times})
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=200, use_dictionary=False)
    return FILES * times * sum(len(document.encode()) for document in documents) / 1e6


def prepared(corpus: Path, workers: int, vocab_size: int) -> tuple[float, float, Path]:
    """Seconds of `onehour prepare` into an empty cache, the MB of its largest process, and the folder of the data."""
    cache = tempfile.mkdtemp(dir=corpus.parent)
    command = [sys.executable, "-m", "onehour", "prepare", "gpt", f"--text={corpus}", f"--vocab-size={vocab_size}"]
    began, peak = time.perf_counter(), 0.0
    process = subprocess.Popen(
        [*command, f"--workers={workers}"],
        env=os.environ | {"XDG_CACHE_HOME": cache, "TOKENIZERS_PARALLELISM": "false"},
        stdout=subprocess.DEVNULL,
    )
    while process.poll() is None:
        peak = max(peak, largest(process.pid))
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    if process.returncode:
        raise SystemExit("onehour prepare failed")
    (folder,) = (path for path in Path(cache, "onehour").iterdir() if path.is_dir())
    return seconds, peak, folder


def largest(pid: int) -> float:
    """MB of memory of this process of its own (no files), or of the largest below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:  # it has ended
        return 0.0
    own = float(status.partition("RssAnon:")[2].split()[0]) / 1e3 if "RssAnon:" in status else 0.0
    return max([own, *(largest(int(child)) for child in children)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=256)
    parser.add_argument("--vocab-size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        size = write_corpus(corpus, options.megabytes)
        speeds: dict[int, list[float]] = {0: [], 1: [], 2: []}
        peaks = dict.fromkeys(speeds, 0.0)
        for _ in range(options.rounds):
            for workers, measured in speeds.items():
                seconds, peak, data = prepared(corpus, workers, options.vocab_size)
                measured.append(size / seconds)
                peaks[workers] = max(peak, peaks[workers])
        for workers, measured in speeds.items():
            beside = f", {ratio(measured, speeds[0])} times that without Ray" if workers else ""
            print(
                f"{size:.0f} MB of text, {options.vocab_size} tokens, --workers {workers}: "
                f"{statistics.median(measured):.1f} MB/s{beside}; {peaks[workers]:.0f} MB in the largest process"
            )
        paths = sorted(data.glob("train*.arrow"))
        began = time.perf_counter()
        rows = Rows(*(paths * 50)[:200])
        print(f"opening 200 files of {len(rows):,} samples: {1e3 * (time.perf_counter() - began):.1f} ms")


if __name__ == "__main__":
    main()
