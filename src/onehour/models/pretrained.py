"""A language model that somebody has trained: a Hugging Face folder or a GGUF file, of Llama's architecture."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from onehour.data.chat import Chat
from onehour.errors import InputError
from onehour.models.gpt import GPT, GPTConfig

UNUSED = ("rotary_emb.inv_freq", "rope_freqs.weight")  # rotary frequencies, which follow from the configuration


class Undrawn(TorchFunctionMode):
    """Within it, what torch.nn.init is to fill stays as it is: memory that nobody has written yet."""

    def __torch_function__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if getattr(function, "__module__", "") == "torch.nn.init":
            return named["tensor"]  # all of its functions hand it on by this name
        return function(*arguments, **(named or {}))


@dataclass(frozen=True)
class Pretrained:
    """What there is of a pretrained model; its weights stay on the disk until they are asked for."""

    path: Path
    """The folder or file."""
    config: GPTConfig
    """The shape of the model."""
    tokenizer: str
    """The text of a tokenizer.json, which the package tokenizers reads."""
    chat: Chat
    """How it writes conversations, and where it ends a text."""
    weights: Callable[[], Iterator[tuple[str, Tensor]]]
    """Its weights one by one, under the names of `GPT`, as they are stored or, if they are quantized, as float32."""

    @torch.no_grad()
    def load(self, model: GPT) -> None:
        """Put the weights into `model`, in place and one by one: the memory is that of the model and its largest weight.

        Raises:
            InputError: a weight is missing or of another shape, or there is one that the architecture does not have.
        """
        missing = dict(model.named_parameters())
        for name, weight in self.weights():
            if name.endswith(UNUSED) or (self.config.tied and name == "lm_head.weight"):
                continue
            there = missing.pop(name, None)
            if there is None or there.shape != weight.shape:
                wanted = (
                    f"{tuple(there.shape)} by its configuration" if there is not None else "not of this architecture"
                )
                raise InputError(f"{self.path} does not fit: its {name} is {tuple(weight.shape)}, and {wanted}.")
            there.copy_(weight)
        if missing:
            raise InputError(f"{self.path} is not whole: it lacks {len(missing)} weights, such as {min(missing)}.")

    def build(self) -> GPT:
        """The model with its weights, on the CPU in float32 and in evaluation mode. Raises InputError as `load` does."""
        with Undrawn():  # drawing random weights first would take longer than reading these
            model = GPT(self.config)
        self.load(model)
        return model.eval()


def open_pretrained(path: Path) -> Pretrained:
    """A pretrained model in a Hugging Face folder, a GGUF file, or a folder that holds one GGUF file.

    Raises:
        InputError: there is none, it is of another architecture, or a file is missing or broken.
    """
    if not path.exists():
        raise InputError(f"There is nothing at {path.absolute()}; name a Hugging Face folder or a GGUF file.")
    if (path / "config.json").is_file():
        from onehour.models.huggingface import open_folder

        return open_folder(path)
    files = sorted(path.rglob("*.gguf")) if path.is_dir() else [path]
    if len(files) != 1:
        there = ", ".join(file.name for file in files) or "neither"
        raise InputError(f"{path} should hold a config.json or one GGUF file, and has {there}; name the file.")
    from onehour.models.gguf import open_gguf

    return open_gguf(files[0])


def is_pretrained(path: Path) -> bool:
    """Whether `open_pretrained` is meant by this path; a run, which has a config.json too, is none."""
    if path.is_file():
        return path.suffix == ".gguf"
    from onehour.data.chat import read_json

    return "model_type" in read_json(path / "config.json") or any(path.rglob("*.gguf"))
