"""The same text beside nanoGPT: python bench/nanogpt.py --nanogpt FOLDER [--rounds 5] [--threads 1]

FOLDER is a copy of https://github.com/karpathy/nanoGPT in which `python data/shakespeare_char/prepare.py` was run. Both
train what its README gives for a CPU: characters of tiny Shakespeare, 64 of them at once, 4 layers of 128. Each is
started the way its users start it, in turn, with equal threads; evaluating and starting are left out.

- Time to a loss: nanoGPT's 2,000 steps; onehour's fewer, larger ones; and the loss of both on 2,400 windows of the last
  tenth of the text, which neither has trained on. The same once beside nanoGPT of 6 and of 8 layers.
- Step time at equal depth, width, context and batch, and nearly equal parameters, at depth 4, 6 and 8, by the optimizer
  that both have, by Muon, and compiled; and what share of the speed of a large matrix product the model's arithmetic has,
  also at depth 8 and context 256. What compiling takes, and after how many steps it has paid.
"""

import argparse
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from onehour.models.gpt import GPT, GPTConfig
from onehour.recipes.gpt import GPTRecipe
from onehour.training.run import Run, load_trained
from watch import ratio

CONTEXT, WIDTH, BATCH = 64, 128, 12
README_LINE = (
    "--device=cpu --compile=False --log_interval=1 --dropout=0.0 "
    f"--block_size={CONTEXT} --batch_size={BATCH} --n_head=4 --n_embd={WIDTH}"
)
SHAPE = f"--context {CONTEXT} --width {WIDTH} --num-heads 4 --num-kv-heads 2 --hidden-width 352"
# Narrower and shallower than nanoGPT's: of those tried, the one that comes to its loss soonest (history.md).
NARROW = "--context 64 --width 96 --num-heads 3 --num-kv-heads 3 --hidden-width 256"
RECIPE = "--learning-rate 2e-2 --num-steps 500 --global-batch-size 16 --warmup-steps 20"
KINDS = {
    "AdamW": "--optimizer adamw --learning-rate 1e-3",
    "Muon": "--optimizer muon",
    "AdamW, compiled": "--optimizer adamw --learning-rate 1e-3 --compile",
}


@dataclass(frozen=True)
class Trained:
    """One training, by either."""

    seconds: float
    """In its steps."""
    step: float
    """Seconds of a step, the median."""
    loss: float
    """In nats per character; not a number where it was not evaluated."""


def start(command: list[str], folder: Path, threads: int) -> str:
    """What a command prints; its errors end the benchmark."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def theirs(nanogpt: Path, depth: int, steps: int, eval_iters: int, threads: int) -> Trained:
    """nanoGPT's train.py for so many steps, evaluated at the first and the last one."""
    with tempfile.TemporaryDirectory() as out:
        options = [*README_LINE.split(), f"--n_layer={depth}", f"--max_iters={steps}", f"--lr_decay_iters={steps}",
                   f"--eval_interval={steps}", f"--eval_iters={eval_iters}", f"--out_dir={out}"]  # fmt: skip
        said = start([sys.executable, "train.py", "config/train_shakespeare_char.py", *options], nanogpt, threads)
    times = [float(ms) / 1e3 for ms in re.findall(r"time ([\d.]+)ms", said)]
    times = times[1:-1]  # what these two say includes evaluating
    loss = re.findall(r"val loss ([\d.]+)", said)[-1]
    return Trained(sum(times) * steps / len(times), statistics.median(times), float(loss))


def ours(
    text: Path, depth: int, options: str, threads: int, windows: torch.Tensor | None = None, form: str = SHAPE
) -> Trained:
    """`onehour train gpt` without Ray."""
    with tempfile.TemporaryDirectory() as runs:
        shape = [*form.split(), f"--depth={depth}", f"--text={text}"]
        quiet = ["--workers=0", "--evaluate-every=None", "--checkpoint-every=None", f"--runs={runs}", "--name=run"]
        start([sys.executable, "-m", "onehour", "train", "gpt", *shape, *options.split(), *quiet], Path(runs), threads)
        rows = [json.loads(line) for line in (Path(runs) / "run" / "metrics.jsonl").read_text().splitlines()]
        ends = [0, *(row["step"] for row in rows)]
        steps = [end - begin for begin, end in itertools.pairwise(ends)]
        batch = rows[0]["samples"] / rows[0]["step"]
        times = [batch / row["samples_per_second"] for row in rows]
        loss = float("nan") if windows is None else loss_of(load_trained(Run(Path(runs) / "run"))[1], windows)
    return Trained(sum(n * t for n, t in zip(steps, times, strict=True)), statistics.median(times), loss)


@torch.no_grad()
def loss_of(model: nn.Module, windows: torch.Tensor) -> float:
    """Mean loss on these windows (N, CONTEXT + 1)."""
    losses = [cross_entropy(model(w[:, :-1]).flatten(0, 1), w[:, 1:].flatten()) for w in windows.split(200)]
    return torch.stack(losses).mean().item()


def product_speed() -> float:
    """Multiplications and additions per second of a large float32 matrix product, the best of ten."""
    a = torch.randn(1024, 1024)
    times = []
    for _ in range(10):
        began = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - began)
    return float(2 * 1024**3 / min(times))


def arithmetic(shape: GPTConfig, num_samples: int) -> float:
    """Multiplications and additions of a step forward and backward: 6 for each weight and token, and attention's
    (Chowdhery et al. 2022, "PaLM", appendix B)."""
    with torch.device("meta"):
        weights = sum(p.numel() for name, p in GPT(shape).named_parameters() if name != "embed_tokens.weight")
    return num_samples * shape.context * (6.0 * weights + 12 * shape.num_layers * shape.width * shape.context)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if arguments.nanogpt is None:
        print("nanogpt.py is left out: name a copy of nanoGPT by --nanogpt FOLDER")
        return
    torch.set_num_threads(arguments.threads)
    nanogpt, threads = arguments.nanogpt.absolute(), arguments.threads
    text = (nanogpt / "data/shakespeare_char/input.txt").read_bytes()
    train, held_out = text[: int(0.9 * len(text))], np.frombuffer(text[int(0.9 * len(text)) :], np.uint8)
    starts = np.random.default_rng(0).integers(0, len(held_out) - CONTEXT, 2400)
    windows = torch.from_numpy(held_out[starts[:, None] + np.arange(CONTEXT + 1)].astype(np.int64))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = (
            f"{folder}/compiled"  # empty, as for a user who compiles for the first time
        )
        file = Path(folder) / "train.txt"
        file.write_bytes(train)
        compare_training(nanogpt, file, windows, 4, arguments.rounds, threads)
        compare_training(nanogpt, file, windows, 6, 1, threads)
        compare_training(nanogpt, file, windows, 8, 1, threads)
        compare_steps(nanogpt, file, arguments.rounds, threads)
        share_of_peak(file, threads)


def compare_steps(nanogpt: Path, text: Path, rounds: int, threads: int) -> None:
    """Print the step time of both at each depth."""
    for depth in (4, 6, 8):
        pairs, compiling = [], []
        for _ in range(rounds):
            other = theirs(nanogpt, depth, 40, 1, threads).step
            options = f"--num-steps 40 --global-batch-size {BATCH} --log-every 1 "
            each = [ours(text, depth, options + kind, threads) for kind in KINDS.values()]
            pairs.append([other, *(trained.step for trained in each)])
            compiling.append(each[-1].seconds - 40 * each[-1].step)
        for i, kind in enumerate(KINDS, start=1):
            mine, other_times = [pair[i] for pair in pairs], [pair[0] for pair in pairs]
            shape = GPTConfig(context=CONTEXT, num_layers=depth, width=WIDTH)
            share = arithmetic(shape, BATCH) / statistics.median(mine) / product_speed()
            print(f"step time, depth {depth}, onehour by {kind} / nanoGPT: {ratio(mine, other_times)}; "
                  f"{1e3 * statistics.median(mine):.1f} ms / {1e3 * statistics.median(other_times):.1f} ms; "
                  f"{share:.0%} of a large matrix product's speed", flush=True)  # fmt: skip
        if depth == 4:  # layers of one shape share their code, so that more of them take no longer
            spared = statistics.median(pair[1] - pair[-1] for pair in pairs)
            pays = f", so it pays after {round(compiling[0] / spared, -2):,.0f} steps" if spared > 0 else ""
            print(f"compiling, depth {depth}, the first time / again: {compiling[0]:.0f} s / {min(compiling):.0f} s; it spares "
                  f"{1e3 * spared:.1f} ms a step{pays}", flush=True)  # fmt: skip


def share_of_peak(text: Path, threads: int) -> None:
    """Print how much of a large matrix product's speed gpt has at depth 8 and context 256."""
    recipe = GPTRecipe(depth=8, context=256)
    options = "--num-steps 4 --global-batch-size 32 --micro-batch-size 8 --log-every 1"
    step = ours(text, 8, options, threads, form="--context 256").step
    share = arithmetic(recipe.gpt_config(), 32) / step / product_speed()
    print(
        f"gpt, depth 8, context 256, of a large matrix product's speed: {share:.0%} ({step:.2f} s a step)", flush=True
    )


def compare_training(nanogpt: Path, text: Path, windows: torch.Tensor, depth: int, rounds: int, threads: int) -> None:
    """Print the time and the loss of nanoGPT of this depth and of onehour with a layer less."""
    pairs = [
        (ours(text, depth - 1, RECIPE, threads, windows, NARROW), theirs(nanogpt, depth, 2000, 200, threads))
        for _ in range(rounds)
    ]
    mine, other = ([pair[i] for pair in pairs] for i in (0, 1))
    losses = " / ".join(f"{statistics.median(t.loss for t in kind):.3f}" for kind in (mine, other))
    seconds = " / ".join(f"{statistics.median(t.seconds for t in kind):.1f} s" for kind in (mine, other))
    times = ratio([t.seconds for t in mine], [t.seconds for t in other])
    print(f"training, depth {depth}, onehour / nanoGPT: {times}; {seconds}; held-out loss {losses}", flush=True)


if __name__ == "__main__":
    main()
