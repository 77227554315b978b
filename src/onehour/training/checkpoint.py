"""A checkpoint is a folder of safetensors and JSON: everything that the next step depends on, and nothing else.

    model.safetensors       weights, under the names of the plain module
    optimizer.safetensors   its moments, as "<parameter>/<key>"
    random.safetensors      the random generators of each worker, as "<rank>/<device>"
    checkpoint.json         step, samples, held-out losses, recipe, config, data, versions
    SHA256SUMS              of the files above; `sha256sum -c SHA256SUMS` reads it, too

Nothing in it is code, so opening one that somebody else wrote runs nothing. It appears under its name when it is
complete. A damaged one is recognized by its sums.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from onehour import __version__
from onehour.config import TrainConfig
from onehour.data.prepare import Data
from onehour.errors import InputError
from onehour.recipe import Recipe
from onehour.training.device import Worker, set_random_state


@dataclass(frozen=True)
class State:
    """What a checkpoint holds."""

    tensors: dict[str, dict[str, Tensor]]
    """The content of each safetensors file: model, optimizer, random. Made by `state_of` they are the live tensors."""
    facts: dict[str, Any]
    """step, samples, losses, recipe, config, data, versions: what goes into checkpoint.json."""

    def copy(self) -> "State":
        """The state as it is now, in the memory of the CPU, for somebody who saves it while the training goes on."""
        copies = {
            name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in self.tensors.items()
        }
        return State(copies, self.facts)

    def save(self, folder: Path) -> Path:
        """Write the checkpoint to `folder`, by a temporary name beside it.

        Raises:
            OSError: the disk is full or not writable; then nothing is left behind.
        """
        folder.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write(self, new)
            new.chmod(0o755)
            if folder.exists():  # a damaged one of the same step, from before a resume
                shutil.rmtree(folder)
            new.rename(folder)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        return folder


def state_of(model: nn.Module, optimizer: Optimizer, random: list[dict[str, Tensor]], facts: dict[str, Any]) -> State:
    """The state of a training; `random` is the random state of each worker, by rank. The tensors stay the live ones."""
    tensors = {
        "model": model_tensors(model),
        "optimizer": optimizer_tensors(model, optimizer),
        "random": {f"{rank}/{name}": tensor for rank, states in enumerate(random) for name, tensor in states.items()},
    }
    return State(tensors, facts)


def write(state: State, folder: Path) -> None:
    """Write the files of a checkpoint into `folder`, and make sure that they are on the disk."""
    for name, tensors in state.tensors.items():
        save_tensors(tensors, folder / f"{name}.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(state.facts, indent=2))
    sums = "".join(f"{sha256(path)}  {path.name}\n" for path in sorted(folder.iterdir()))
    (folder / "SHA256SUMS").write_text(sums)
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; an error of the disk is raised as OSError."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; of tied ones the first name only."""
    names: dict[int, str] = {}
    tensors = model.state_dict(keep_vars=True)
    return {name: tensor for name, tensor in tensors.items() if names.setdefault(id(tensor), name) == name}


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "<parameter>/<key>", such as "lm_head.weight/exp_avg"."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def damage(folder: Path) -> str | None:
    """What is wrong with the checkpoint in `folder`, in a few words; None if every file has its sum."""
    sums = folder / "SHA256SUMS"
    if not sums.is_file():
        return "SHA256SUMS is missing"
    for line in sums.read_text(errors="replace").splitlines():
        expected, _, name = line.partition("  ")
        if not (folder / name).is_file():
            return f"{name or 'a name in SHA256SUMS'} is missing"
        if sha256(folder / name) != expected:
            return f"{name} has other bytes than were written"
    return None


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def facts_of(
    step: int, held_out_losses: list[float], recipe: Recipe, config: TrainConfig, data: Data, worker: Worker
) -> dict[str, Any]:
    """What goes into checkpoint.json beside the tensors."""
    return {
        "step": step,
        "samples": step * config.global_batch_size,
        "held_out_losses": held_out_losses,
        "recipe": recipe.describe(),
        "config": asdict(config),
        "data": data.digest,
        "num_workers": worker.world_size,
        "versions": {"onehour": __version__, "torch": torch.__version__},
    }


def restore(
    start: Path | None, model: nn.Module, optimizer: Optimizer, recipe: Recipe, config: TrainConfig, data: Data,
    worker: Worker,
) -> tuple[int, list[float]]:  # fmt: skip
    """Put the checkpoint in `start` into model, optimizer and random generators, in place.

    Returns the number of steps done and the held-out losses so far: 0 and [] without a checkpoint.

    Raises:
        InputError: the checkpoint is of another model, or going on would change which samples come when.
    """
    if start is None:
        return 0, []
    facts = read_facts(start)
    check_order(facts, recipe, config, data, start)
    load_model(model, start)
    load_optimizer(model, optimizer, start)
    if facts["num_workers"] == worker.world_size:  # another number of workers draws other numbers: it cannot be equal
        set_random_state(load_random(start, worker.rank), worker.device)
    return facts["step"], facts["held_out_losses"]


def check_order(facts: dict[str, Any], recipe: Recipe, config: TrainConfig, data: Data, start: Path) -> None:
    """Refuse to go on from a checkpoint with anything that decides which samples come when."""
    if facts["recipe"]["name"] != recipe.describe()["name"]:
        raise InputError(
            f"The checkpoint {start} is of the recipe {facts['recipe']['name']}, not {recipe.describe()['name']}."
        )
    for option in ("seed", "global_batch_size"):
        if (before := facts["config"][option]) != (now := getattr(config, option)):
            raise InputError(
                f"The checkpoint {start} was trained with {option} {before}, and {now} would change the order of the "
                f"samples; leave out --{option.replace('_', '-')}, or start a new run."
            )
    if facts["data"] != data.digest:
        raise InputError(
            f"The training data have changed since the checkpoint {start} was written (SHA-256 {facts['data'][:12]} then, "
            f"{data.digest[:12]} now); bring the old data back, or start a new run."
        )


def read_facts(folder: Path) -> dict[str, Any]:
    """checkpoint.json of a checkpoint."""
    return json.loads((folder / "checkpoint.json").read_text())  # type: ignore[no-any-return]


def load_model(model: nn.Module, folder: Path) -> None:
    """Put the weights of a checkpoint into `model`, in place.

    Raises:
        InputError: the checkpoint is of another model, or of another size of it.
    """
    saved, there = load_file(folder / "model.safetensors"), model_tensors(model)
    for name in sorted(saved.keys() | there.keys()):
        ours, theirs = (tuple(t[name].shape) if name in t else "missing" for t in (there, saved))
        if ours != theirs:
            raise InputError(
                f"The checkpoint {folder} is of another model: {name} is {theirs} there and {ours} here; "
                "use the recipe and the options it was trained with, which are in its checkpoint.json."
            )
    with torch.no_grad():
        for name, tensor in there.items():
            tensor.copy_(saved[name])


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put the moments of a checkpoint into `optimizer`, which is over the parameters of `model`."""
    parameters = dict(model.named_parameters())
    for name, tensor in load_file(folder / "optimizer.safetensors").items():
        parameter, _, key = name.rpartition("/")
        optimizer.state[parameters[parameter]][key] = tensor.to(parameters[parameter].device)


def load_random(folder: Path, rank: int) -> dict[str, Tensor]:
    """The random state of the worker `rank` that wrote the checkpoint."""
    saved = load_file(folder / "random.safetensors")
    return {name.partition("/")[2]: tensor for name, tensor in saved.items() if name.startswith(f"{rank}/")}
