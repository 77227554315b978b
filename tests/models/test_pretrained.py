"""Pretrained models against Hugging Face's: what transformers writes is read, and what is written transformers reads."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from test_gpt import CONFIGS, random_gpt, random_tokens
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from onehour.data.chat import Chat
from onehour.data.tokens import BytePairs, Bytes, train_byte_pairs
from onehour.errors import InputError
from onehour.models.gguf import read_head
from onehour.models.gpt import GPT, GPTConfig, RopeScaling
from onehour.models.huggingface import write_folder
from onehour.models.language import Choice, Language
from onehour.models.pretrained import open_pretrained

LLAMA3 = RopeScaling(factor=32.0, low_frequency=1.0, high_frequency=4.0, context=8192)
SCALED = GPTConfig(
    vocab_size=50, context=24, num_layers=2, width=64, num_heads=2, num_kv_heads=1, hidden_width=48, rope_theta=5e5,
    rope_scaling=LLAMA3,
)  # fmt: skip
TEXT = "Am 3. Mai 2026 it's 12345 o'clock -- où? 你好  <s> def f(x):\n\treturn  x[10]\r\n"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}\n    {% if message.role == 'tool' %}{{ raise_exception('no tools') }}"
    "{% endif %}\n[{{ message.role }}] {{ message.content | tojson }}{{ eos_token }}\n{% endfor %}\n"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
CONVERSATION = [{"role": "system", "content": "Be <brief>."}, {"role": "user", "content": "你好 & bye"}]


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """The text of a tokenizer.json of byte pairs with <s> before each text, and </s>."""
    path = tmp_path_factory.mktemp("words") / "tokenizer.json"
    train_byte_pairs([(TEXT * 3).encode()], 300, path)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<s>", "</s>"])
    from tokenizers.processors import TemplateProcessing

    tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return tokenizer.to_str()


@pytest.fixture
def theirs(tmp_path, words) -> Path:
    """A folder as transformers writes it, the weights in several files."""
    torch.manual_seed(0)
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192}  # fmt: skip
    config = LlamaConfig(
        vocab_size=310, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=64, rms_norm_eps=1e-5, rope_parameters=rope, bos_token_id=300,
        eos_token_id=301, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path, max_shard_size="60KB")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(words), bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path)
    return tmp_path


def test_what_transformers_writes_is_read(theirs):
    assert len(list(theirs.glob("*.safetensors"))) > 1
    ours, twin = open_pretrained(theirs), AutoModelForCausalLM.from_pretrained(theirs)
    tokenizer = AutoTokenizer.from_pretrained(theirs)
    assert (ours.config.context, ours.config.rope_scaling) == (64, LLAMA3)
    tokens = random_tokens(ours.config, 2, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.build()(tokens), twin(tokens).logits, atol=1e-4, rtol=1e-4)
    assert BytePairs(ours.tokenizer).encode(TEXT.encode()).tolist() == tokenizer(TEXT).input_ids
    assert (ours.chat.bos, ours.chat.eos, ours.chat.stops) == ("<s>", "</s>", (301,))
    for answer_next in (True, False):
        wanted = tokenizer.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=answer_next)
        assert ours.chat.render(CONVERSATION, answer_next) == wanted


@pytest.mark.parametrize("config", [*CONFIGS, SCALED], ids=["multi-head", "grouped", "tied", "scaled"])
def test_what_is_written_transformers_opens(config, tmp_path):
    model = random_gpt(config).eval()
    write_folder(tmp_path / "model", model, Bytes().json(), Chat())
    twin = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    tokens = random_tokens(config, 2, config.context)
    with torch.no_grad():
        torch.testing.assert_close(model(tokens), twin(tokens).logits, atol=1e-4, rtol=1e-4)
    theirs = twin.generate(tokens[:1, :5], generation_config=GenerationConfig(max_new_tokens=15, do_sample=False))
    language = Language(model, Bytes(), Chat())
    ours = [int(token) for token in language.following(tokens[:1, :5], Choice(15))]
    assert ours == theirs[0, 5:].tolist()
    again = open_pretrained(tmp_path / "model")
    assert again.config == config
    assert all(torch.equal(weight, again.build().state_dict()[name]) for name, weight in model.state_dict().items())


def test_bytes_are_a_tokenizer_that_transformers_opens(tmp_path):
    write_folder(tmp_path / "model", random_gpt(CONFIGS[0]), Bytes().json(), Chat())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = TEXT + "\0" + "".join(map(chr, range(1, 300)))
    assert tokenizer(text).input_ids == list(text.encode())
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_what_a_chat_cannot_write(theirs):
    chat = open_pretrained(theirs).chat
    with pytest.raises(InputError, match="cannot write this conversation: no tools"):
        chat.render([{"role": "tool", "content": "7"}])
    with pytest.raises(InputError, match="no chat template"):
        Chat().render(CONVERSATION)


def changed(folder: Path, **config: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


BROKEN = {
    "another architecture": (lambda f: changed(f, model_type="gpt2"), "architecture 'gpt2'; onehour reads that of Llama"),
    "biases": (lambda f: changed(f, attention_bias=True), "attention_bias True, which onehour does not have"),
    "wide heads": (lambda f: changed(f, head_dim=64), "heads of 64 numbers"),
    "other positions": (lambda f: changed(f, rope_parameters={"rope_type": "yarn"}), "'yarn'; onehour reads"),
    "another shape": (lambda f: changed(f, intermediate_size=50), r"mlp.*is \(.*96.*\), and \(.*50.*\) by its config"),
    "more layers": (lambda f: changed(f, num_hidden_layers=3), "it lacks 9 weights, such as layers.2"),
    "fewer layers": (lambda f: changed(f, num_hidden_layers=1), r"layers.1.* and not of this architecture"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is no JSON"),
    "no tokenizer": (lambda f: (f / "tokenizer.json").unlink(), "has no tokenizer.json; fetch it"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text("{}"), "tokenizer.json is broken"),
    "a lost file": (lambda f: next(f.glob("*.safetensors")).unlink(), "has no model-0000.*, which holds weights"),
    "a broken file": (lambda f: next(f.glob("*.safetensors")).write_bytes(b"12345678{"), "is broken"),
    "nothing": (shutil.rmtree, "There is nothing at"),
    "an empty folder": (lambda f: [path.unlink() for path in f.iterdir()], "should hold a config.json or one GGUF file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken(what, theirs):
    damage, says = BROKEN[what]
    damage(theirs)
    with pytest.raises(InputError, match=says):
        open_pretrained(theirs).build()


def test_only_a_new_folder_is_written(theirs):
    with pytest.raises(InputError, match=r"There is something in .* already, such as chat_template.jinja"):
        write_folder(theirs, GPT(CONFIGS[0]), Bytes().json(), Chat())


# GGUF


def pairs_together(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """What llama.cpp's convert_hf_to_gguf.py does to query and key matrices."""
    return weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def write_gguf(path: Path, model: LlamaForCausalLM, vocabulary: dict, quantization=None, arch: str = "llama") -> None:
    """A file as llama.cpp writes it; the matrices of the model become the quantized ones."""
    writer, config = gguf.GGUFWriter(path, arch), model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    for name, value in vocabulary.items():
        getattr(writer, f"add_{name}")(value)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, parameter in model.named_parameters():
        if quantization is not None and parameter.ndim == 2:
            parameter.data.copy_(
                torch.from_numpy(gguf.dequantize(gguf.quantize(parameter.data.numpy(), quantization), quantization))
            )
        weight = parameter.detach().numpy()
        if "q_proj" in name or "k_proj" in name:
            weight = pairs_together(weight, weight.shape[0] // config.head_dim)
        if quantization is not None and weight.ndim == 2:
            weight = gguf.quantize(weight, quantization)
        to = names.get_name(name, try_suffixes=(".weight",))
        writer.add_tensor(to, weight, raw_dtype=quantization if weight.dtype == np.uint8 else None)
    if config.rope_parameters["rope_type"] == "llama3":  # what generate_extra_tensors writes
        plain = 5e5 ** (torch.arange(0, config.head_dim, 2) / config.head_dim)
        writer.add_tensor("rope_freqs.weight", (1 / (model.model.rotary_emb.inv_freq * plain)).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def in_gguf(words: str, **more: object) -> dict:
    """The tokens and merges of a tokenizer.json as a GGUF file has them."""
    there = json.loads(words)
    ids = there["model"]["vocab"] | {token["content"]: token["id"] for token in there["added_tokens"]}
    return {
        "tokenizer_model": "gpt2", "tokenizer_pre": "gpt-2", "token_list": sorted(ids, key=ids.get),
        "token_types": [1] * 300 + [3] * 2, "token_merges": [" ".join(pair) for pair in there["model"]["merges"]],
        "bos_token_id": 300, "eos_token_id": 301, "add_bos_token": True, "chat_template": TEMPLATE,
    } | more  # fmt: skip


@pytest.mark.parametrize("quantization", [None, gguf.GGMLQuantizationType.Q8_0], ids=["float32", "Q8_0"])
def test_a_gguf_file_is_the_model_that_was_written(theirs, words, tmp_path, quantization):
    twin, path = AutoModelForCausalLM.from_pretrained(theirs), tmp_path / "model.gguf"
    twin.resize_token_embeddings(302)
    write_gguf(path, twin, in_gguf(words), quantization)
    ours = open_pretrained(path)
    tokens = random_tokens(ours.config, 2, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours.build()(tokens), twin(tokens).logits, atol=1e-4, rtol=1e-4)
    assert (ours.config.rope_scaling, ours.chat) == (LLAMA3, Chat(TEMPLATE, "<s>", "</s>", (301,)))
    assert BytePairs(ours.tokenizer).encode(TEXT.encode()).tolist() == Tokenizer.from_str(words).encode(TEXT).ids


def test_a_file_is_read_as_the_package_gguf_reads_it(tmp_path):
    """Values of every type, and weights in quantizations whose blocks do not divide evenly into rows."""
    path, kinds = tmp_path / "model.gguf", gguf.GGMLQuantizationType
    writer, random = gguf.GGUFWriter(path, "llama"), np.random.default_rng(1)
    for value in ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"):
        getattr(writer, f"add_{value}")(value, 7)
    writer.add_bool("bool", True)
    for name, values in {"texts": ["", "é", "你好"], "ints": [3, -4], "floats": [0.5], "bools": [True, False]}.items():
        writer.add_array(name, values)
    writer.add_custom_alignment(64)
    for kind in (kinds.F32, kinds.F16, kinds.BF16, kinds.Q8_0, kinds.Q4_1, kinds.Q5_0):
        numbers = random.normal(size=(37, 96)).astype(np.float32)
        writer.add_tensor(kind.name, gguf.quantize(numbers, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    said, stored = read_head(path)
    theirs = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in theirs.fields.items() if not name.startswith("GGUF.")}
    assert said == fields and list(said) == list(fields)
    assert list(stored) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        assert np.array_equal(stored[tensor.name].read().numpy(), gguf.dequantize(tensor.data, tensor.tensor_type))


def test_words_and_digits_are_cut_as_the_file_says(theirs, words, tmp_path):
    twin, path = AutoModelForCausalLM.from_pretrained(theirs), tmp_path / "model.gguf"
    pieces = {}
    for pre in ("gpt-2", "smollm", "llama-bpe"):
        write_gguf(path, twin, in_gguf(words, tokenizer_pre=pre, token_types=[1] * 302, add_bos_token=False))
        tokenizer = Tokenizer.from_str(open_pretrained(path).tokenizer)
        text = "it's  12345x\n\n a"
        cuts = tokenizer.pre_tokenizer.pre_tokenize_str(text)
        pieces[pre] = [text[begin:end] for _, (begin, end) in cuts]
        assert tokenizer.decode(tokenizer.encode(TEXT).ids, skip_special_tokens=False) == TEXT
    assert pieces["gpt-2"] == ["it", "'s", " ", " 12345", "x", "\n\n", " a"]
    assert pieces["smollm"] == ["it", "'s", "  ", "1", "2", "3", "4", "5", "x", "\n\n", " a"]
    assert pieces["llama-bpe"] == ["it", "'s", " ", " ", "123", "45", "x", "\n\n", " a"]


def best_first(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's way: the neighbours whose union scores highest become one, until none are left."""
    pieces = list("▁" + text.replace(" ", "▁"))
    while True:
        unions = [(scores.get(a + b, -np.inf), -i) for i, (a, b) in enumerate(pairwise(pieces))]
        if not unions or max(unions)[0] == -np.inf:
            return pieces
        i = -max(unions)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def test_sentence_pieces_are_merged_by_their_scores(theirs, tmp_path):
    merged = ["▁t", "he", "▁the", "in", "ing", "th", "▁th", "▁thing", "▁s", "ng"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *merged, *"▁theings"]
    scores = {token: -float(i) for i, token in enumerate(tokens)}
    spm = {
        "tokenizer_model": "llama", "token_list": tokens, "token_scores": list(scores.values()),
        "token_types": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259), "bos_token_id": 1, "eos_token_id": 2,
    }  # fmt: skip
    write_gguf(tmp_path / "model.gguf", AutoModelForCausalLM.from_pretrained(theirs), spm)
    tokenizer = BytePairs(open_pretrained(tmp_path / "model.gguf").tokenizer)
    for text in ("the things  sing", "nothing", "thethe hinge"):
        pieces = best_first(text, scores)
        known = [piece if piece in scores else f"<0x{ord(piece):02X}>" for piece in pieces]
        assert [tokens[i] for i in tokenizer.encode(text.encode())] == ["<s>", *known]
    encoded = tokenizer.encode("sé 你".encode(), around=False).tolist()
    assert "".join(tokenizer.decode(encoded)) == "sé 你"


def broken_gguf(path: Path, model: LlamaForCausalLM, words: str, what: str) -> None:
    pre = {"tokenizer_pre": "viking"} if what == "another cut" else {}
    vocabulary = {} if what == "no tokenizer" else in_gguf(words, token_types=[1] * 302, **pre)
    if what == "another tokenizer":
        vocabulary["tokenizer_model"] = "bert"
    if what == "scaled otherwise":
        vocabulary["rope_scaling_type"] = gguf.RopeScalingType.YARN
    write_gguf(path, model, vocabulary, arch="gemma" if what == "another architecture" else "llama")
    if what == "cut off":
        path.write_bytes(path.read_bytes()[:3000])
    if what == "no GGUF":
        path.write_text("to be or not to be")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("another architecture", "architecture 'gemma'; onehour reads that of Llama"),
        ("no tokenizer", "has no tokenizer: it says nothing of 'tokenizer.ggml.model'"),
        ("another tokenizer", "tokenizer of the kind 'bert'; onehour reads gpt2 and llama"),
        ("another cut", "cuts text in the way 'viking'; onehour knows default, gpt-2, smollm"),
        ("scaled otherwise", "stretches its rotary positions by 'yarn'"),
        ("cut off", "is no whole GGUF file"),
        ("no GGUF", "is no whole GGUF file"),
    ],
)
def test_what_is_broken_in_a_gguf_file(what, says, theirs, words, tmp_path):
    broken_gguf(tmp_path / "model.gguf", AutoModelForCausalLM.from_pretrained(theirs), words, what)
    with pytest.raises(InputError, match=says):
        open_pretrained(tmp_path / "model.gguf")


# A real one


@pytest.fixture(scope="module")
def real(smollm2) -> Language:
    return Language.of_pretrained(open_pretrained(smollm2))


def test_a_real_model_knows_the_capital_of_france(real):
    prompt = "The capital of France is"
    assert real.tokens_of(prompt) == [504, 3575, 282, 4649, 314]
    assert "".join(real.write(prompt, Choice(2))) == " Paris."


def test_a_real_model_is_that_of_transformers(real, tmp_path):
    write_folder(tmp_path / "model", real.model, real.tokenizer.json(), real.chat)
    twin, tokenizer = (kind.from_pretrained(tmp_path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
    prompts = ["The capital of France is", "def add(a, b):\n    return", "In 1969 the first human"]
    for prompt in prompts:
        inputs = tokenizer(prompt, return_tensors="pt")
        assert inputs.input_ids[0].tolist() == real.tokens_of(prompt)
        with torch.no_grad():
            torch.testing.assert_close(real.model(inputs.input_ids), twin(**inputs).logits, atol=1e-3, rtol=1e-3)
    theirs = twin.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs.input_ids.shape[1] :]
    alone = ["".join(real.write(prompt, Choice(12))) for prompt in prompts]
    assert alone[-1] == tokenizer.decode(theirs)
    assert real.write_all(prompts, Choice(12)) == alone


def test_a_real_model_answers(real):
    question = {"role": "user", "content": "What is the capital of France? Answer in one word."}
    assert "Paris" in "".join(real.answer([question], Choice(8)))
