"""A conversation as the text that a model was trained to read: its chat template, and the tokens at which an answer ends.

A folder keeps them as Hugging Face does: tokenizer_config.json with the names of the special tokens and the template (or
the template in a file of its own, chat_template.jinja), and generation_config.json with the tokens that end an answer.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onehour.errors import InputError

TOKENIZER_CONFIG = "tokenizer_config.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE_FILE = "chat_template.jinja"

Message = dict[str, str]  # role: system, user or assistant; content: its words


@dataclass(frozen=True)
class Chat:
    """How a model writes a conversation, and where it ends a text."""

    template: str | None = None
    """Jinja, as in Hugging Face's tokenizers; None: the model was not trained on conversations."""
    bos: str | None = None
    """The token that stands before a text, such as <s>, if the model knows one."""
    eos: str | None = None
    """The token that stands after a text."""
    stops: tuple[int, ...] = ()
    """The ids of all tokens at which an answer ends: that of `eos`, and others of a model that was tuned to talk."""

    def render(self, messages: list[Message], answer_next: bool = False) -> str:
        """The conversation as one text; with `answer_next` it ends where the assistant's next words begin.

        Raises:
            InputError: there is no template, or it refuses these messages.
        """
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        if self.template is None:
            raise InputError("The model has no chat template: it continues texts; use onehour generate.")
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        environment.globals["raise_exception"] = refuse
        known = {"bos_token": self.bos or "", "eos_token": self.eos or "", "add_generation_prompt": answer_next}
        try:
            return environment.from_string(self.template).render(messages=messages, **known)
        except TemplateError as error:
            raise InputError(f"The model's chat template cannot write this conversation: {error}") from error

    def save(self, folder: Path) -> None:
        """Write the files that `read_chat` reads, and that Hugging Face's AutoTokenizer wants beside tokenizer.json."""
        names = {"bos_token": self.bos, "eos_token": self.eos, "chat_template": self.template}
        known = {name: value for name, value in names.items() if value is not None}
        about = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False} | known
        (folder / TOKENIZER_CONFIG).write_text(json.dumps(about, indent=2, ensure_ascii=False), encoding="utf-8")
        if self.stops:
            (folder / GENERATION_CONFIG).write_text(json.dumps({"eos_token_id": list(self.stops)}, indent=2))


def refuse(message: str) -> None:
    """What a template calls about messages that it cannot write."""
    from jinja2 import TemplateError

    raise TemplateError(message)


def read_chat(folder: Path, ids: dict[str, int]) -> Chat:
    """What a folder says about conversations; `ids` are those of the tokenizer's tokens. Files that are not there say nothing.

    Raises:
        InputError: a file is no JSON.
    """
    about = read_json(folder / TOKENIZER_CONFIG)
    template = about.get("chat_template")
    if isinstance(template, list):  # several, by name
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (file := folder / TEMPLATE_FILE).is_file():
        template = file.read_text(encoding="utf-8")
    bos, eos = token_text(about.get("bos_token")), token_text(about.get("eos_token"))
    ends = read_json(folder / GENERATION_CONFIG).get("eos_token_id")
    stops = {ids.get(eos or ""), *(ends if isinstance(ends, list) else [ends])}
    return Chat(template, bos, eos, tuple(sorted(number for number in stops if number is not None)))


def token_text(token: str | dict[str, Any] | None) -> str | None:
    """A special token's text; older files have an object that holds it."""
    return token["content"] if isinstance(token, dict) else token


def read_json(path: Path) -> dict[str, Any]:
    """A file of JSON; {} if it is not there, InputError if it is something else."""
    if not path.is_file():
        return {}
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"The file {path} is no JSON ({error}); fetch it again.") from error
    return content
