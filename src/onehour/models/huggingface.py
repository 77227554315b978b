"""A language model as Hugging Face keeps it: config.json, *.safetensors, tokenizer.json, tokenizer_config.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from onehour.data.chat import Chat, read_chat, read_json
from onehour.data.tokens import BPE_FILE, token_ids
from onehour.errors import InputError
from onehour.models.gpt import GPT, GPTConfig, RopeScaling, huggingface_name
from onehour.models.pretrained import Pretrained

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"  # of weights in several files: which has what
PLAIN = {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}  # what Llama can say and GPT does not


def open_folder(folder: Path) -> Pretrained:
    """The model in a Hugging Face folder.

    Raises:
        InputError: it is of another architecture, or a file is missing or broken.
    """
    config = config_from(read_json(folder / CONFIG_FILE), str(folder))
    files = weight_files(folder)
    tokenizer = read_tokenizer(folder)
    chat = read_chat(folder, token_ids(tokenizer))
    return Pretrained(folder, config, tokenizer, chat, lambda: read_weights(files))


def config_from(there: dict[str, Any], where: str) -> GPTConfig:
    """The shape of a model by its config.json; `where` is named in errors.

    Raises:
        InputError: the model is of another architecture than `GPT`, or of a variant that it does not have.
    """
    if (kind := there.get("model_type")) != "llama":
        raise InputError(f"{where} is a model of the architecture {kind!r}; onehour reads that of Llama.")
    for name, wanted in PLAIN.items():
        if there.get(name, wanted) != wanted:
            raise InputError(f"{where} has {name} {there[name]!r}, which onehour does not have; it reads {wanted!r}.")
    try:
        config = GPTConfig(
            vocab_size=there["vocab_size"], context=there["max_position_embeddings"],
            num_layers=there["num_hidden_layers"], width=there["hidden_size"],
            num_heads=there["num_attention_heads"],
            num_kv_heads=there.get("num_key_value_heads") or there["num_attention_heads"],
            hidden_width=there["intermediate_size"], norm_eps=there.get("rms_norm_eps", 1e-6),
            tied=there.get("tie_word_embeddings", False), **rope_from(there, where),
        )  # fmt: skip
    except KeyError as error:
        raise InputError(f"{where} has no {error} in its {CONFIG_FILE}; fetch that file again.") from error
    if (head := there.get("head_dim") or config.head_width) != config.head_width:
        raise InputError(
            f"{where} has heads of {head} numbers; onehour reads those of hidden_size / num_attention_heads."
        )
    return config


def rope_from(there: dict[str, Any], where: str) -> dict[str, Any]:
    """The options of GPTConfig about rotary positions; transformers 5 keeps them together, and 4 did apart."""
    rope = there.get("rope_parameters") or {"rope_theta": there.get("rope_theta")} | (there.get("rope_scaling") or {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    theta = {"rope_theta": rope.get("rope_theta") or 10000.0}
    if kind == "default":
        return theta
    if kind != "llama3":
        raise InputError(f"{where} stretches its rotary positions by {kind!r}; onehour reads 'default' and 'llama3'.")
    scaling = RopeScaling(
        rope["factor"], rope["low_freq_factor"], rope["high_freq_factor"], rope["original_max_position_embeddings"]
    )
    return theta | {"rope_scaling": scaling}


def write_folder(folder: Path, model: GPT, tokenizer: str, chat: Chat) -> None:
    """Write a model into `folder`, which is made, for `open_folder` and for transformers' Auto classes.

    Raises:
        InputError: there is something in the folder already, or it cannot be written.
    """
    ids = token_ids(tokenizer)
    ends: dict[str, Any] = {"bos_token_id": ids.get(chat.bos or ""), "eos_token_id": list(chat.stops) or None}
    weights = {huggingface_name(name): weight.detach().contiguous() for name, weight in model.state_dict().items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if there := sorted(path.name for path in folder.iterdir()):
            raise InputError(f"There is something in {folder} already, such as {there[0]}; name a new folder by --to.")
        save_file(weights, folder / WEIGHTS_FILE, {"format": "pt"})
        (folder / WEIGHTS_FILE).chmod(0o644)  # safetensors lets nobody else read it
        (folder / BPE_FILE).write_text(tokenizer, encoding="utf-8")
        chat.save(folder)
        (folder / CONFIG_FILE).write_text(json.dumps(config_for(model.config) | ends, indent=2))
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"The model cannot be written to {folder} ({error}); choose another folder by --to."
        ) from error


def config_for(config: GPTConfig) -> dict[str, Any]:
    """The config.json of a model of this shape: what `config_from` reads."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if (scaling := config.rope_scaling) is not None:
        rope |= {
            "rope_type": "llama3", "factor": scaling.factor, "low_freq_factor": scaling.low_frequency,
            "high_freq_factor": scaling.high_frequency, "original_max_position_embeddings": scaling.context,
        }  # fmt: skip
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "float32",
        "vocab_size": config.vocab_size, "max_position_embeddings": config.context,
        "num_hidden_layers": config.num_layers, "hidden_size": config.width, "head_dim": config.head_width,
        "num_attention_heads": config.num_heads, "num_key_value_heads": config.num_kv_heads,
        "intermediate_size": config.hidden_width, "rms_norm_eps": config.norm_eps, "rope_parameters": rope,
        "tie_word_embeddings": config.tied,
    } | PLAIN  # fmt: skip


def weight_files(folder: Path) -> list[Path]:
    """The files of the weights; InputError if one of them is not there."""
    index = read_json(folder / INDEX_FILE)
    files = [folder / name for name in sorted({*index["weight_map"].values()} if index else {WEIGHTS_FILE})]
    if lost := [file.name for file in files if not file.is_file()]:
        raise InputError(f"{folder} has no {lost[0]}, which holds weights; fetch it, as safetensors.")
    return files


def read_weights(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    """The weights in these files under our names, read one by one."""
    for path in files:
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():  # noqa: SIM118
                    yield name.removeprefix("model."), file.get_tensor(name)
        except SafetensorError as error:
            raise InputError(f"The file {path} is broken ({error}); fetch it again.") from error


def read_tokenizer(folder: Path) -> str:
    """The text of tokenizer.json; InputError if it is not there."""
    path = folder / BPE_FILE
    if not path.is_file():
        raise InputError(
            f"{folder} has no {BPE_FILE}; fetch it, or have transformers write it: "
            f"AutoTokenizer.from_pretrained({str(folder)!r}).save_pretrained({str(folder)!r})."
        )
    return path.read_text(encoding="utf-8")
