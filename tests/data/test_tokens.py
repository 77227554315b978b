import numpy as np
import pytest

from onehour.data.sources import find_text
from onehour.data.text import character_at, split_documents
from onehour.data.tokens import BPE_FILE, Bytes, first_bytes, open_tokenizer, train_byte_pairs
from onehour.errors import InputError

CHINESE = "一小时从张量到集群。训练循环只有一个，损失处处相同。\n" * 40


@pytest.fixture(params=["bytes", "pairs"])
def tokenizer(request, tmp_path):
    if request.param == "pairs":
        train_byte_pairs([CHINESE.encode(), b"def f(x):\n    return x\n" * 9], 300, tmp_path / BPE_FILE)
    return open_tokenizer(tmp_path)


@pytest.mark.parametrize("text", [CHINESE, "def f(x): return x", "naïve 🙂", ""])
def test_what_is_encoded_decodes_to_the_same(tokenizer, text):
    tokens = tokenizer.encode(text.encode())
    assert "".join(tokenizer.decode(tokens.tolist())) == text


def test_byte_pairs_are_fewer_than_bytes_and_kept_with_the_data(tmp_path):
    train_byte_pairs([CHINESE.encode()], 300, tmp_path / BPE_FILE)
    tokens = open_tokenizer(tmp_path).encode(CHINESE.encode())
    assert tokens.dtype == np.uint16
    assert len(tokens) < len(CHINESE.encode()) / 2
    assert tokens.max() < 300


def test_bytes_are_tokens_whatever_they_are():
    assert Bytes().encode(bytes(range(256))).tolist() == list(range(256))
    assert "".join(Bytes().decode([0xFF, 0x41])) == "\ufffdA"


def test_byte_pairs_refuse_what_is_no_text(tmp_path):
    with pytest.raises(InputError, match=r"not UTF-8, .* leave out --vocab-size"):
        train_byte_pairs([b"\xff\xfe"], 300, tmp_path / BPE_FILE)


@pytest.mark.parametrize("limit", range(1, 12))
def test_text_is_cut_between_characters(limit):
    first = b"".join(first_bytes([CHINESE.encode()], limit))
    assert CHINESE.startswith(first.decode())
    assert limit - 3 < len(first) <= limit


def test_a_single_file_is_split_between_characters(tmp_path):
    for extra in range(4):
        (tmp_path / "text.txt").write_text("a" * extra + CHINESE)
        train, held_out = (
            [text.decode() for text in side] for side in split_documents(find_text(str(tmp_path / "text.txt")))
        )
        assert "".join(train + held_out) == "a" * extra + CHINESE
    assert character_at(b"abc", 3) == 3
