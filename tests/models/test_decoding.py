"""Reading token by token, and several texts at once, against the plain model."""

import pytest
import torch
from test_gpt import CONFIGS, each_config, random_gpt, random_tokens
from test_sampling import continuation

from onehour.data.chat import Chat
from onehour.data.tokens import Bytes
from onehour.errors import InputError
from onehour.models.decoding import Decoder
from onehour.models.gpt import GPT, Cache, GPTConfig
from onehour.models.language import Choice, Language
from onehour.models.sampling import generate, side_by_side


@each_config
@pytest.mark.parametrize("batch_size", [1, 3])
@torch.no_grad()
def test_a_decoder_gives_the_models_logits(config, batch_size):
    model = random_gpt(config)
    tokens = random_tokens(config, batch_size, config.context)
    decoder, cache = Decoder(model, batch_size), Cache.for_model(model, batch_size)
    pieces = [decoder(piece, cache) for piece in tokens.split([9] + [1] * (config.context - 9), dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), model(tokens)[:, 8:], atol=1e-4, rtol=1e-4)


@each_config
@pytest.mark.parametrize("fast", [False, True])
def test_texts_of_different_lengths_go_on_as_each_alone(config, fast):
    model = random_gpt(config)
    texts = [random_tokens(config, 1, length)[0].tolist() for length in (1, 5, 3, 5)]
    tokens, padding = side_by_side(texts)
    network = Decoder(model, len(texts)) if fast else model
    num_tokens = config.context - 4
    together = torch.stack(list(generate(network, tokens, num_tokens, temperature=0, padding=padding)), dim=1)
    alone = [continuation(model, torch.tensor([text]), num_tokens, temperature=0)[0] for text in texts]
    assert torch.equal(together, torch.stack(alone))


def test_padding_goes_when_the_text_is_cut():
    model = random_gpt(CONFIGS[1])
    context = model.config.context
    tokens, padding = side_by_side([[7, 8], list(range(20))])
    whole = torch.cat(
        (tokens, torch.stack(list(generate(model, tokens, 2 * context, 0.0, padding=padding)), dim=1)), dim=1
    )
    half = whole[:1, 18 : context + 1]  # of the last half context, what is text
    again = continuation(model, half, context // 2, temperature=0)
    assert torch.equal(whole[:1, context + 1 : context + 1 + context // 2], again)


def language(context: int = 32, **chat: object) -> Language:
    torch.manual_seed(0)
    return Language(GPT(GPTConfig(context=context)).eval(), Bytes(), Chat(**chat))


def test_an_answer_ends_at_a_stop():
    free = language()
    text = [int(token) for token in free.following(torch.tensor([[65]]), Choice(20))]
    stop = text[7]
    held = language(stops=(stop,))
    wanted = "".join(Bytes().decode(text[: text.index(stop)]))
    assert "".join(held.write("A", Choice(20))) == wanted
    assert held.write_all(["A", "BC"], Choice(20))[0] == wanted


def test_an_answer_ends_with_the_context():
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    talker = language(template=template)
    assert len([*talker.continued([1] * 25, Choice(100))]) == 101  # a text may go on
    question = [{"role": "user", "content": "x" * 30}]
    assert len(Bytes().encode("".join(talker.answer(question, Choice(100))).encode())) <= 3 * 2
    with pytest.raises(InputError, match="The conversation has 33 tokens, and the model reads 32"):
        list(talker.answer([{"role": "user", "content": "x" * 33}], Choice(100)))


TURNS = "{% for message in messages %}{{ message.role[0] }}:{{ message.content }};{% endfor %}a:"


def said(talker: Language, messages: list[dict[str, str]], choice: Choice) -> str:
    try:
        return "".join(talker.answer(messages, choice))
    except InputError as error:
        return str(error)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_is_the_same_whatever_was_read_before(temperature):
    talker = language(template=TURNS, stops=(7,), context=128)
    messages = [{"role": "system", "content": "S"}]
    lengths, errors = [], 0
    for turn in range(9):
        messages.append({"role": "user", "content": f"word {turn}"})
        choice = Choice(7, temperature, seed=turn)
        answer = said(talker, messages, choice)
        assert answer == said(language(template=TURNS, stops=(7,), context=128), messages, choice)
        errors += "The conversation has" in answer
        lengths.append(talker.conversations[0].text.shape[1])
        messages.append({"role": "assistant", "content": "fine"})
        other = [{"role": "system", "content": "T"}, messages[1], messages[-2]]  # another one between the turns
        if turn % 3 == 1:
            assert said(talker, other, choice) == said(language(template=TURNS, stops=(7,), context=128), other, choice)
    assert errors > 0 and max(lengths) > 100


def test_two_answers_at_once_do_not_disturb_each_other():
    asked = [[{"role": "user", "content": words}] for words in ("here", "hers")]
    talker = language(template=TURNS)
    together = zip(*(talker.answer(messages, Choice(9)) for messages in asked), strict=True)
    alone = [list(language(template=TURNS).answer(messages, Choice(9))) for messages in asked]
    assert [list(pieces) for pieces in zip(*together, strict=True)] == alone


def test_a_prompt_that_is_too_long_is_an_error():
    with pytest.raises(InputError, match=r"'xxxxxxxxxxxxxxxxxxxx\.\.\.' has 40 tokens, and the model reads 32 at most"):
        language().write_all(["a", "x" * 40], Choice(1))
