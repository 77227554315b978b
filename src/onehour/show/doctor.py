"""What this machine has, what would not work on it, and how to mend that."""

import os
import platform
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from shutil import disk_usage

from onehour import __version__
from onehour.cluster.address import RAY_NOTE
from onehour.cluster.local import local_cluster
from onehour.cluster.ports import answers
from onehour.config import TrainConfig
from onehour.data.prepare import cache_folder
from onehour.data.sources import standard_library
from onehour.errors import InputError
from onehour.recipe import Recipe
from onehour.show.table import labelled
from onehour.show.terminal import in_bytes

GB = 10**9
TORCH_BYTES = 350 * 10**6  # of a process that has imported torch
PACKAGES = ("torch", "ray", "numpy", "pyarrow", "safetensors", "tyro", "matplotlib", "plotext")
EXTRAS = {
    "sklearn": ("digits", "onehour train digits has no images", "scikit-learn"),
    "tokenizers": ("bpe", "onehour train gpt --vocab-size has nothing to learn byte pairs with", "tokenizers"),
    "aiohttp": ("cluster", "onehour cluster, submit and jobs do not work", "ray[default]"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    name: str
    text: str
    trouble: bool = False
    """Whether it would keep onehour from working."""

    def line(self) -> str:
        """The finding as text, wrapped to the terminal; trouble begins with "!"."""
        return labelled(f"{'!' if self.trouble else ' '} {self.name}", self.text, indent=13)


def examine(runs: Path) -> Iterator[Finding]:
    """Examine this machine, for runs kept in the folder `runs`."""
    yield Finding(
        "system", f"{platform.system()} {platform.release()} {platform.machine()}, Python {platform.python_version()}"
    )
    yield packages()
    yield from devices()
    yield memory()
    yield storage("runs", runs.absolute(), "runs cannot be kept", "choose another folder by --runs")
    yield storage("data", cache_folder(), "data cannot be prepared", "set XDG_CACHE_HOME to another folder")
    yield storage("Ray files", Path("/tmp/ray"), "--workers 1 and more do not start", "mend it, or use --workers 0")
    yield shared_memory()
    yield from ray_clusters()
    yield text()
    yield from extras()


def packages() -> Finding:
    """The versions of what onehour stands on."""
    versions = {"onehour": __version__} | {name: installed(name) for name in PACKAGES}
    there = ", ".join(f"{name} {number}" for name, number in versions.items() if number)
    missing = " and ".join(name for name, number in versions.items() if not number)
    if missing:
        return Finding(
            "packages", f"{missing} missing, which onehour imports: pip install onehour brings it. {there}", True
        )
    return Finding("packages", there)


def installed(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    """What torch can compute on."""
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("devices", f"torch cannot be imported ({error}), so nothing trains; install torch again.", True)
        return
    fast = torch.cpu.get_capabilities()
    bfloat16 = (
        "fast" if fast.get("avx512_bf16") or fast.get("amx_bf16") else "slow: stay with --precision float32 on it"
    )
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", f"{num_cores} cores; torch uses {torch.get_num_threads()} threads; bfloat16 is {bfloat16}")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        bfloat16 = "fast" if torch.cuda.is_bf16_supported(including_emulation=False) else "slow"
        yield Finding(f"cuda:{i}", f"{gpu.name}, {in_bytes(gpu.total_memory)}; bfloat16 is {bfloat16}")
    if torch.backends.mps.is_available():
        yield Finding("mps", f"Apple GPU, up to {in_bytes(torch.mps.recommended_max_memory())} of the memory")
    elif not torch.cuda.is_available():
        why = f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "torch finds none"
        yield Finding("gpu", f"none: {why}, so training runs on the CPU")


def memory() -> Finding:
    """The memory of this machine, or of the container that this process is in."""
    total, available = memory_bytes()
    text = in_bytes(total) + (f", {in_bytes(available)} available" if available is not None else "")
    if available is not None and available < GB:
        return Finding(
            "memory", f"{text}: a training that needs 1 GB or more would be killed; end other programs.", True
        )
    return Finding("memory", text)


def memory_of_step(recipe: Recipe, config: TrainConfig) -> dict[str, int]:
    """The bytes of one worker at its peak, in all and by part."""
    from onehour.data.prepare import prepare
    from onehour.training.plan import make_plan
    from onehour.training.simulate import peak_of_steps

    data = prepare(recipe)
    try:
        return peak_of_steps(recipe, config, data)
    except Exception:  # fake tensors have no numbers; a recipe that reads weights, or asks for a number, needs them
        memory = make_plan(recipe, config, data, 1, None).memory
        parts = {name: getattr(memory, name) for name in ("weights", "gradients", "optimizer", "activations")}
        return {"total": memory.total, **parts}


def memory_of_training(recipe: Recipe, config: TrainConfig) -> Finding:
    """How much memory one worker takes that trains so, alone."""
    peak = memory_of_step(recipe, config)
    parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in peak.items() if name != "total")
    text = f"{recipe.name()} by one worker takes {in_bytes(peak['total'])} at most, at a moment with {parts}"
    _, available = memory_bytes()
    if available is not None and peak["total"] + TORCH_BYTES > available and config.device in ("auto", "cpu"):
        remedy = "try a smaller --micro-batch-size, or --activation-checkpointing"
        return Finding("training", f"{text}: more than the {in_bytes(available)} available here; {remedy}.", True)
    kept = "a CPU's memory holds much of what was freed, unless MALLOC_MMAP_THRESHOLD_=1048576 is set"
    return Finding("training", f"{text}; Python and torch take some 350 MB beside it, and {kept}")


def memory_bytes() -> tuple[int, int | None]:
    """Total and available memory in bytes; None where the system does not tell what is available."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    table = Path("/proc/meminfo")
    if not table.is_file():
        return total, None
    kilobytes = dict(line.split(":", 1) for line in table.read_text().splitlines())
    available = int(kilobytes["MemAvailable"].split()[0]) * 1024
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    if limit.is_file() and (most := limit.read_text().strip()).isdigit():  # of a container
        total, available = min(total, int(most)), min(available, int(most) - int(used.read_text()))
    return total, available


def storage(name: str, folder: Path, consequence: str, remedy: str) -> Finding:
    """Whether there is room to write in a folder, which need not be there yet."""
    there = next(path for path in (folder, *folder.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"onehour")
        free = disk_usage(there).free
    except OSError as error:
        reason = f"{there} is {'no folder' if not there.is_dir() else f'not writable ({error.strerror})'}"
        return Finding(name, f"{folder}: {consequence}, as {reason}; {remedy}.", True)
    if free < GB:
        return Finding(
            name, f"{folder}: {consequence}, as only {in_bytes(free)} are free; make room, or {remedy}.", True
        )
    return Finding(name, f"{folder}, {in_bytes(free)} free")


def shared_memory() -> Finding:
    """Whether Ray's object store fits into /dev/shm. It takes 30 % of the available memory, 200 GB at most."""
    number, folder = installed("ray"), Path("/dev/shm")
    if number is None:
        return Finding("Ray", "not installed, so only --workers 0 works; pip install 'ray[train]'.", True)
    _, available = memory_bytes()
    if not folder.is_dir() or available is None:
        return Finding("Ray", number)
    size, need = disk_usage(folder).free, min(available * 3 // 10, 200 * GB)
    text = f"{number}; its object store takes {in_bytes(need)}, and /dev/shm has {in_bytes(size)}"
    if size < need:
        text += ": Ray will warn and use the disk, which is slow for large objects; in Docker, start with --shm-size."
    return Finding("Ray", text)


def ray_clusters() -> Iterator[Finding]:
    """Clusters that this shell or this machine points to, and whether they answer."""
    address = os.environ.get("RAY_ADDRESS")
    if address:
        if answers(address):
            yield Finding(
                "RAY_ADDRESS", f"{address}: onehour train joins that cluster; unset it to train on this machine."
            )
        else:
            reason = f"{address} does not answer, and onehour train --workers 1 and more would join it"
            yield Finding("RAY_ADDRESS", f"{reason}; start that cluster, or unset RAY_ADDRESS.", True)
    if cluster := local_cluster():
        yield Finding(
            "cluster", f"{cluster.size()} by onehour cluster start, at {cluster.address}: --address auto joins it"
        )
    elif RAY_NOTE.is_file():
        address = RAY_NOTE.read_text().strip()
        if answers(address):
            yield Finding("cluster", f"a Ray cluster runs here at {address}: --address auto joins it")
        else:
            reason = f"{RAY_NOTE} names a cluster that has ended ({address}), so --address auto finds nothing"
            yield Finding("cluster", f"{reason}; remove that file.", True)
    if (token := Path.home() / ".ray" / "auth_token").is_file():
        yield Finding(
            "token",
            f"{token} is there, so a cluster that is started here with ray start asks for it; give every machine and "
            "client that joins the same token, and set RAY_AUTH_MODE=token there.",
        )


def text() -> Finding:
    """The text that gpt reads when it is given none."""
    try:
        sources = standard_library()
    except (InputError, OSError) as error:
        return Finding("text", f"onehour train gpt has no default text, so give it some by --text: {error}", True)
    size = sum(source.size or 0 for source in sources)
    return Finding(
        "text", f"{len(sources):,} files of Python's standard library, {in_bytes(size)}: what gpt reads by default"
    )


def extras() -> Iterator[Finding]:
    """The extras that are not installed. Nobody needs all of them, so that is no trouble."""
    for module, (extra, consequence, package) in EXTRAS.items():
        if find_spec(module) is None:
            yield Finding("extra", f"{consequence}, as {package} is not installed: pip install 'onehour[{extra}]'")
