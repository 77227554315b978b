"""A checkpoint is a folder of safetensors and JSON: everything that the next step depends on, and nothing else.

    model.safetensors       weights that are trained, under the names of the plain module
    optimizer.safetensors   its moments, as "<parameter>/<key>"
    random.safetensors      the random generators of each worker, as "<rank>/<device>"
    checkpoint.json         step, samples, held-out losses, recipe, config, data, versions
    SHA256SUMS              of the files above; `sha256sum -c SHA256SUMS` reads it, too

Of a sharded model, model/ and optimizer/ are folders to which each worker writes its parts (shards.py). Either kind is
read at any number of workers, sharded or not.

Nothing in it is code, so opening one that somebody else wrote runs nothing. It appears under its name when it is
complete. A damaged one is recognized by its sums.
"""

import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from onehour import __version__
from onehour.config import TrainConfig
from onehour.data.prepare import Data
from onehour.errors import InputError
from onehour.recipe import Recipe
from onehour.training.device import Worker, set_random_state
from onehour.training.parallel import part_like
from onehour.training.sums import SUMS, sum_lines

SHARDED = ("model", "optimizer")  # what may be spread over the workers


@dataclass(frozen=True)
class State:
    """What a checkpoint holds."""

    tensors: dict[str, dict[str, Tensor]]
    """The content of each safetensors file: model, optimizer, random. Made by `state_of` they are the live tensors."""
    facts: dict[str, Any]
    """step, samples, losses, recipe, config, data, versions: what goes into checkpoint.json."""
    saving: dist.ProcessGroup | None = None
    """Of a sharded model: the group in which all workers save their parts."""

    def copy(self) -> "State":
        """The state as it is now, in the memory of the CPU, for somebody who saves it while the training goes on."""
        copies = {
            name: {key: tensor.detach().to("cpu", copy=True) for key, tensor in tensors.items()}
            for name, tensors in self.tensors.items()
        }
        return State(copies, self.facts, self.saving)

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

    def save_part(self) -> None:
        """On the workers beside rank 0, which calls `save`: write this worker's part of a sharded model."""
        if self.saving:
            write_sharded(self, None)


def state_of(
    model: nn.Module, optimizer: Optimizer, random: list[dict[str, Tensor]], facts: dict[str, Any],
    saving: dist.ProcessGroup | None,
) -> State:  # fmt: skip
    """The state of a training; `random` is on rank 0 the random state of each worker. The tensors stay the live ones."""
    tensors = {
        "model": model_tensors(model),
        "optimizer": optimizer_tensors(model, optimizer),
        "random": {f"{rank}/{name}": tensor for rank, states in enumerate(random) for name, tensor in states.items()},
    }
    return State(tensors, facts, saving)


def write(state: State, folder: Path) -> None:
    """Write the files of a checkpoint into `folder`, and make sure that they are on the disk."""
    sums_of_parts = write_sharded(state, folder) if state.saving else ""
    for name, tensors in state.tensors.items():
        if not (state.saving and name in SHARDED):
            save_tensors(tensors, folder / f"{name}.safetensors")
    (folder / "checkpoint.json").write_text(json.dumps(state.facts, indent=2))
    own = [path for path in folder.iterdir() if path.is_file()]
    (folder / SUMS).write_text(sum_lines(own, folder) + sums_of_parts)
    for path in [*own, folder / SUMS]:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def write_sharded(state: State, folder: Path | None) -> str:
    """Write this worker's parts of a sharded model; `folder` is known to rank 0, which gets the sums of all, as lines."""
    from onehour.training.shards import write_parts

    assert state.saving
    return write_parts({name: state.tensors[name] for name in SHARDED}, folder, state.saving)


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors; an error of the disk is raised as OSError."""
    try:
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    except SafetensorError as error:
        raise OSError(str(error)) from error


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters that are trained, and buffers, by name; of tied ones the first name only."""
    names: dict[int, str] = {}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    tensors = {name: tensor for name, tensor in model.state_dict(keep_vars=True).items() if name not in frozen}
    return {name: tensor for name, tensor in tensors.items() if names.setdefault(id(tensor), name) == name}


def optimizer_tensors(model: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as "<parameter>/<key>", such as "lm_head.weight/exp_avg"."""
    return {
        f"{name}/{key}": value
        for name, parameter in model.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


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
    saved, there = shapes_in(folder, "model"), model_tensors(model)
    for name in sorted(saved.keys() | there.keys()):
        ours, theirs = (tuple(there[name].shape) if name in there else "missing"), saved.get(name, "missing")
        if ours != theirs:
            raise InputError(
                f"The checkpoint {folder} is of another model: {name} is {theirs} there and {ours} here; "
                "use the recipe and the options it was trained with, which are in its checkpoint.json."
            )
    read_into(there, folder, "model")


def load_optimizer(model: nn.Module, optimizer: Optimizer, folder: Path) -> None:
    """Put the moments of a checkpoint into `optimizer`, which is over the parameters of `model`."""
    parameters, moments = dict(model.named_parameters()), dict[str, Tensor]()
    for name, shape in shapes_in(folder, "optimizer").items():
        parameter = parameters[name.rpartition("/")[0]]
        # A moment is spread over the workers as its parameter is; a count of steps is not.
        alike = shape == parameter.shape
        moment = torch.zeros_like(parameter) if alike else torch.zeros(shape, device=parameter.device)
        moments[name] = optimizer.state[parameter][name.rpartition("/")[2]] = moment
    read_into(moments, folder, "optimizer")


def shapes_in(folder: Path, name: str) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors called `name` in a checkpoint: model or optimizer."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        from onehour.training.shards import shapes_of_parts

        return shapes_of_parts(folder / name)
    with safe_open(file, "pt") as opened:
        return {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118


@torch.no_grad()
def read_into(tensors: dict[str, Tensor], folder: Path, name: str) -> None:
    """Fill these tensors, whole or sharded, with those called `name` in a checkpoint, whole or sharded."""
    file = folder / f"{name}.safetensors"
    if not file.is_file():
        from onehour.training.shards import read_parts

        read_parts(tensors, folder / name)
        return
    saved = load_file(file)
    for key, tensor in tensors.items():
        tensor.copy_(part_like(tensor, saved[key]))


def load_random(folder: Path, rank: int) -> dict[str, Tensor]:
    """The random state of the worker `rank` that wrote the checkpoint."""
    with safe_open(folder / "random.safetensors", "pt") as saved:  # each worker reads its own, not those of all
        names = [name for name in saved.keys() if name.startswith(f"{rank}/")]  # noqa: SIM118
        return {name.partition("/")[2]: saved.get_tensor(name) for name in names}
