"""How likely a language model finds a text: what a multiple-choice question is answered by."""

from collections.abc import Sequence

import torch
from torch import Tensor

from onehour.errors import InputError
from onehour.models.gpt import GPT
from onehour.models.language import Language


def choose(language: Language, question: str, choices: Sequence[str]) -> tuple[int, int]:
    """The likeliest of the choices as an answer to the question, and the one that is likeliest for its length in bytes.

    Long answers are less likely than short ones, whatever they say; so both are usual. Brown et al. 2020, "Language Models
    are Few-Shot Learners", section 2.4; Gao et al., lm-evaluation-harness: acc and acc_norm.
    """
    if language.chat.template is None:
        before, ends = question, [f" {choice.strip()}" for choice in choices]
    else:
        before, ends = language.chat.render([{"role": "user", "content": question}], answer_next=True), list(choices)
    around = language.chat.template is None  # a template writes itself what stands around a text
    first = language.tokenizer.encode(before.encode(), around=around).tolist()
    rest = [language.tokenizer.encode(end.encode(), around=False).tolist() for end in ends]
    if (length := len(first) + max(map(len, rest))) > language.model.config.context:
        raise InputError(
            f"The question {question[:40]!r} has {length} tokens with its longest choice, and the model reads "
            f"{language.model.config.context}: shorten it."
        )
    likely = log_likelihoods(language.model, first, rest)
    num_bytes = torch.tensor([len(end.encode()) for end in ends])
    return int(likely.argmax()), int((likely / num_bytes).argmax())


@torch.no_grad()
def log_likelihoods(model: GPT, before: Sequence[int], texts: Sequence[Sequence[int]]) -> Tensor:
    """The log-likelihood in nats of each text after the tokens `before`: (number of texts,)."""
    length = len(before) + max(map(len, texts))
    # What fills a row stands at its end, where no token of the text sees it.
    rows = torch.tensor([[*before, *text, *[0] * (length - len(before) - len(text))] for text in texts])
    places = torch.arange(1, length)
    ends = torch.tensor([len(before) + len(text) for text in texts])
    wanted = (places >= len(before)) & (places < ends[:, None])
    rows, wanted = (tensor.to(model.embed_tokens.weight.device) for tensor in (rows, wanted))
    losses: Tensor = model(rows[:, :-1], wanted=wanted, targets=rows[:, 1:][wanted])
    return -torch.zeros(wanted.shape, device=losses.device).masked_scatter(wanted, losses).sum(dim=1).cpu()
