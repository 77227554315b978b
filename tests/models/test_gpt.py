"""The GPT against Hugging Face's Llama, and by its properties."""

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from onehour.errors import InputError
from onehour.models.gpt import GPT, Cache, GPTConfig, huggingface_name

SMALL = dict(vocab_size=50, context=24, num_layers=3, width=32, hidden_width=48)
CONFIGS = [
    GPTConfig(**SMALL, num_heads=4, num_kv_heads=4, tied=False),
    GPTConfig(**SMALL, num_heads=4, num_kv_heads=2, tied=False),
    GPTConfig(**SMALL, num_heads=4, num_kv_heads=1, tied=True, rope_theta=500.0, norm_eps=1e-3),
]
each_config = pytest.mark.parametrize("config", CONFIGS, ids=["multi-head", "grouped-query", "multi-query-tied"])


def random_gpt(config: GPTConfig) -> GPT:
    """A model whose weights are large enough for every part to matter, norms included."""
    torch.manual_seed(0)
    model = GPT(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def random_tokens(config: GPTConfig, batch_size: int, length: int) -> Tensor:
    return torch.randint(config.vocab_size, (batch_size, length), generator=torch.Generator().manual_seed(1))


def huggingface_twin(model: GPT) -> LlamaForCausalLM:
    config = model.config
    twin = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.width,
            intermediate_size=config.hidden_width,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            max_position_embeddings=config.context,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tied,
            bos_token_id=None,
            eos_token_id=None,
        )
    )
    weights = {huggingface_name(name): weight for name, weight in model.state_dict().items()}
    missing = twin.load_state_dict(weights, strict=False)
    assert not missing.unexpected_keys
    assert missing.missing_keys == (["lm_head.weight"] if config.tied else [])
    return twin.eval()


@each_config
@torch.no_grad()
def test_the_same_weights_give_the_logits_of_hugging_face(config: GPTConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 2, config.context)
    torch.testing.assert_close(model(tokens), huggingface_twin(model)(tokens).logits, atol=1e-4, rtol=1e-4)


@each_config
@torch.no_grad()
def test_the_cache_changes_no_logit(config: GPTConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 2, config.context)
    cache = Cache.for_model(model, batch_size=2)
    pieces = [model(piece, cache) for piece in tokens.split([9, 1, 1, 7, 6], dim=1)]
    assert cache.length == config.context
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens), atol=1e-4, rtol=1e-4)


@each_config
@torch.no_grad()
def test_a_later_token_does_not_change_earlier_logits(config: GPTConfig) -> None:
    model = random_gpt(config)
    tokens = random_tokens(config, 2, config.context)
    changed = tokens.clone()
    changed[:, 10] = (changed[:, 10] + 1) % config.vocab_size
    before, after = model(tokens), model(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert (before[:, 10:] - after[:, 10:]).abs().amax(dim=(0, 2)).min() > 1e-4


@each_config
def test_every_parameter_gets_a_gradient(config: GPTConfig) -> None:
    model = random_gpt(config)
    model(random_tokens(config, 2, config.context)).logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@each_config
def test_parameters_can_be_counted_on_the_meta_device(config: GPTConfig) -> None:
    with torch.device("meta"):
        model = GPT(config)
    kv_width = config.num_kv_heads * config.head_width
    attention = 2 * config.width * (config.width + kv_width)
    layer = attention + 3 * config.width * config.hidden_width + 2 * config.width
    embeddings = (1 if config.tied else 2) * config.vocab_size * config.width
    assert all(p.is_meta for p in model.parameters())
    assert sum(p.numel() for p in model.parameters()) == embeddings + config.num_layers * layer + config.width


def test_a_meta_model_becomes_the_real_one() -> None:
    real = GPT(CONFIGS[1])
    torch.manual_seed(0)
    real.init_weights()
    with torch.device("meta"):
        model = GPT(CONFIGS[1])
    torch.manual_seed(0)
    model.to_empty(device="cpu").init_weights()
    tokens = random_tokens(CONFIGS[1], 2, 8)
    assert torch.equal(model(tokens), real(tokens))


def test_the_state_is_the_parameters_and_nothing_else() -> None:
    model = GPT(CONFIGS[0])
    assert set(model.state_dict()) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("tied", [False, True])
def test_the_logits_of_a_new_model_are_of_size_one(tied: bool) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig.from_depth(4, tied=tied))
    assert model(random_tokens(model.config, 4, 64)).std().item() == pytest.approx(1.0, abs=0.1)


def test_logits_are_float32_also_when_the_weights_are_not() -> None:
    model = GPT(CONFIGS[1]).bfloat16()
    assert model(random_tokens(CONFIGS[1], 2, 8)).dtype == torch.float32


@pytest.mark.parametrize("depth", range(1, 13))
def test_one_dial_gives_a_model(depth: int) -> None:
    config = GPTConfig.from_depth(depth)
    wider = GPTConfig.from_depth(depth + 1)
    assert config.num_layers == depth
    assert config.width < wider.width and config.hidden_width < wider.hidden_width


def test_the_dial_can_be_overridden() -> None:
    config = GPTConfig.from_depth(4, context=32, num_kv_heads=1)
    assert (config.num_layers, config.context, config.num_kv_heads) == (4, 32, 1)
    with pytest.raises(TypeError, match="num_wheels"):
        GPTConfig.from_depth(4, num_wheels=4)


def test_heads_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(InputError, match="multiple"):
        GPTConfig(width=32, num_heads=5)
    with pytest.raises(InputError, match="multiple"):
        GPTConfig(width=32, num_heads=4, num_kv_heads=3)


def test_a_text_longer_than_the_context_is_an_error() -> None:
    config = CONFIGS[0]
    model = GPT(config)
    with pytest.raises(InputError, match="at most 24 tokens but got 25"):
        model(random_tokens(config, 1, config.context + 1))
    cache = Cache.for_model(model, batch_size=1)
    with torch.no_grad():
        model(random_tokens(config, 1, config.context), cache)
    with pytest.raises(InputError, match="at most 24 tokens but got 25"):
        model(random_tokens(config, 1, 1), cache)
