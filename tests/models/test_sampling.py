"""Generation against Hugging Face's, against the model without a cache, and by its properties."""

from typing import Any

import pytest
import torch
from test_gpt import CONFIGS, each_config, huggingface_twin, random_gpt, random_tokens
from torch import Tensor
from transformers import GenerationConfig

from onehour.errors import InputError
from onehour.models.decoding import Decoder
from onehour.models.gpt import GPT, Cache, GPTConfig
from onehour.models.sampling import begun, choose, generate


def continuation(model: GPT, tokens: Tensor, num_tokens: int, **options: object) -> Tensor:
    return torch.stack(list(generate(model, tokens, num_tokens, **options)), dim=1)  # type: ignore[arg-type]


@torch.no_grad()
def greedy_without_cache(model: GPT, tokens: Tensor, num_tokens: int) -> Tensor:
    text = tokens
    for _ in range(num_tokens):
        text = torch.cat((text, model(text)[:, -1].argmax(-1, keepdim=True)), dim=1)
    return text[:, tokens.shape[1] :]


@each_config
def test_greedy_generation_is_that_of_hugging_face_and_needs_no_cache(config: GPTConfig) -> None:
    model = random_gpt(config)
    prompt = random_tokens(config, 2, 5)
    ours = continuation(model, prompt, 19, temperature=0.0)
    twin = huggingface_twin(model)
    theirs = twin.generate(prompt, generation_config=GenerationConfig(max_new_tokens=19, do_sample=False))
    assert torch.equal(ours, theirs[:, 5:])
    assert torch.equal(ours, greedy_without_cache(model, prompt, 19))


def test_generation_goes_on_beyond_the_context() -> None:
    model = random_gpt(CONFIGS[1])
    context = model.config.context
    prompt = random_tokens(model.config, 2, 5)
    text = torch.cat((prompt, continuation(model, prompt, 3 * context, temperature=0.0)), dim=1)
    # The first token that does not follow from all of the text follows from its last half context.
    full = context + 1
    half = text[:, full - context // 2 : full]
    assert torch.equal(text[:, full : full + context // 2], greedy_without_cache(model, half, context // 2))


def test_only_the_last_context_of_a_long_prompt_counts() -> None:
    model = random_gpt(CONFIGS[1])
    prompt = random_tokens(model.config, 2, 40)
    end = prompt[:, -model.config.context :]
    assert torch.equal(continuation(model, prompt, 30, temperature=0.0), continuation(model, end, 30, temperature=0.0))


def test_a_seeded_generator_gives_the_same_text_again() -> None:
    model = random_gpt(CONFIGS[0])
    prompt = random_tokens(model.config, 2, 5)
    texts = [continuation(model, prompt, 30, generator=torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_the_one_likeliest_token_is_the_greedy_one() -> None:
    model = random_gpt(CONFIGS[0])
    prompt = random_tokens(model.config, 2, 5)
    assert torch.equal(continuation(model, prompt, 20, top_k=1), continuation(model, prompt, 20, temperature=0.0))


def test_tokens_are_drawn_as_often_as_the_logits_say() -> None:
    probabilities = torch.tensor([0.4, 0.3, 0.2, 0.1])
    draws = 20_000
    logits = probabilities.log().expand(draws, 4)

    def frequencies(temperature: float, top_k: int | None) -> Tensor:
        chosen = choose(logits, temperature, top_k, torch.Generator().manual_seed(0))
        return chosen.bincount(minlength=4) / draws

    torch.testing.assert_close(frequencies(1.0, None), probabilities, atol=0.02, rtol=0)
    torch.testing.assert_close(frequencies(1.0, 9), probabilities, atol=0.02, rtol=0)
    torch.testing.assert_close(frequencies(1.0, 2), torch.tensor([4 / 7, 3 / 7, 0, 0]), atol=0.02, rtol=0)
    sharper = probabilities**2 / (probabilities**2).sum()
    torch.testing.assert_close(frequencies(0.5, None), sharper, atol=0.02, rtol=0)


def test_tokens_come_one_by_one_and_need_no_gradient() -> None:
    model = random_gpt(CONFIGS[0])
    stream = generate(model, random_tokens(model.config, 3, 5), num_tokens=10**9)
    token = next(stream)
    assert token.shape == (3,) and not token.requires_grad
    assert torch.is_grad_enabled()


def read_before(model: GPT, tokens: Tensor, num_tokens: int) -> Cache:
    """The cache of a text after so many tokens more."""
    cache = begun(model, tokens, num_tokens)
    continuation(model, tokens, num_tokens, temperature=0.0, cache=cache)
    return cache


@each_config
@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("seed", [None, 3])
def test_a_text_goes_on_from_what_was_read_of_its_beginning(config: GPTConfig, fast: bool, seed: int | None) -> None:
    model = random_gpt(config)
    network: Any = Decoder(model, 1) if fast else model
    first = random_tokens(config, 1, 5)
    before = read_before(network, first, 6)
    assert before.text is not None
    text = before.text.clone()
    kept = before.keys[..., :10, :].clone()
    shares = {
        10: torch.cat((text, random_tokens(config, 1, 4)), dim=1),  # the newest of the 11 was not read
        9: text[:, :10],  # one token is left to be read
        7: torch.cat((text[:, :7], (text[:, 7:8] + 1) % config.vocab_size, text[:, 8:]), dim=1),
        0: (text + 1) % config.vocab_size,
        1: torch.cat((text[:, :1], (text[:, :1] + 1) % config.vocab_size), dim=1),
    }
    for num_shared, tokens in shares.items():
        cache = begun(network, tokens, 2 * config.context, before)
        assert cache.length == num_shared
        how: dict[str, Any] = dict(temperature=0.0 if seed is None else 1.0)
        texts = [
            continuation(
                network, tokens, 2 * config.context, generator=torch.Generator().manual_seed(seed or 0), **how, **more
            )
            for more in ({}, {"cache": cache})
        ]
        assert torch.equal(*texts)
    assert torch.equal(before.text, text) and torch.equal(before.keys[..., :10, :], kept)


def test_what_outgrew_the_context_is_shared_from_where_it_was_cut() -> None:
    model = random_gpt(CONFIGS[1])
    context = model.config.context
    before = read_before(model, random_tokens(model.config, 1, 5), context)
    assert before.text is not None and before.text.shape[1] - 1 == before.length < context
    tokens = before.text.clone()
    cache = begun(model, tokens, 5, before)
    assert cache.length == before.length
    assert torch.equal(
        continuation(model, tokens, 5, temperature=0.0, cache=cache), continuation(model, tokens, 5, temperature=0.0)
    )


def test_nothing_to_continue_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one"):
        next(generate(GPT(CONFIGS[0]), torch.empty(1, 0, dtype=torch.long), 1))
