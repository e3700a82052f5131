"""SentencePiece models through `tokenizers`: the ids and the text of the sentencepiece package itself."""

from __future__ import annotations

import io
import json

import pytest
import sentencepiece

from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from tests.parity.prompts import TOKEN_LINES

CORPUS = [
    "The patient was given aspirin 81 mg daily, and lisinopril 10 mg.",
    "Summarise the note below in SOAP form: subjective, objective, assessment and plan.",
    "def add(a, b):\n    return a + b",
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich.",
    "Is the premise entailed by the hypothesis? Answer yes, no or it's impossible to say.",
] * 20
LINES = [
    *TOKEN_LINES,
    "plain words",
    "a medicine, premedicated",
    "one<turn>two <turn> three[DOSE]mg",
    " a leading space",
    "a trailing space ",
    "two  spaces   three",
    "\ttab and\nnewline\n\nblank",
    "\u00e9\u0301 \u4f60\u597d \U0001f600 na\u00efve",
    "1234567890 3.14159 $5,000",
    "<extra> </s> <s> tags",
    "",
    "x",
]
KINDS = {
    "unigram": {"model_type": "unigram"},
    "bpe": {"model_type": "bpe"},
    "bpe with bytes": {"model_type": "bpe", "byte_fallback": True},
    "bpe as Gemma's": {
        "model_type": "bpe",
        "byte_fallback": True,
        "add_dummy_prefix": False,
        "remove_extra_whitespaces": False,
        "normalization_rule_name": "identity",
        "user_defined_symbols": ["\u2581\u2581", "<turn>", "\n\n"],
    },
    "bpe with symbols and a space before the text": {
        "model_type": "bpe",
        "byte_fallback": True,
        "user_defined_symbols": ["<turn>", "medi", "[DOSE]"],
    },
    "bpe with symbols that are spaces": {"model_type": "bpe", "user_defined_symbols": ["\u2581\u2581", "<turn>"]},
    "unigram with bytes": {"model_type": "unigram", "byte_fallback": True},
}


def train(**options) -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=out,
        vocab_size=420,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return out.getvalue()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ITUNE_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model"
    path.mkdir()
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_ids_and_text_are_sentencepieces_own(kind, folder):
    data = train(**KINDS[kind])
    (folder / "tokenizer.model").write_bytes(data)
    theirs = sentencepiece.SentencePieceProcessor(model_proto=data)
    ours = Tokenizer.from_folder(folder)
    assert (ours.eos_id, ours.bos_id, ours.unk_id) == (theirs.eos_id(), theirs.bos_id(), theirs.unk_id())
    assert ours.vocab_size == theirs.get_piece_size()
    differ = {}
    for line in LINES:
        # Text that spells a control token becomes it with us, as with transformers; SentencePiece spells it out.
        expected = theirs.encode(line)
        if "</s>" not in line and ours.encode(line) != expected:
            differ[line] = (ours.spell(ours.encode(line)), theirs.encode(line, out_type=str))
    assert not differ
    whole = [line for line in LINES if theirs.unk_id() not in theirs.encode(line) and "</s>" not in line]
    assert len(whole) > 3
    for line in whole:
        assert ours.decode(ours.encode(line)) == theirs.decode(theirs.encode(line))


def test_t5s_sentinels_stand_behind_the_pieces(folder):
    (folder / "spiece.model").write_bytes(train(model_type="unigram", pad_id=0, eos_id=1, unk_id=2, bos_id=-1))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "T5Tokenizer", "extra_ids": 100}))
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id) == (0, 1, None)
    last = tokenizer.vocab_size - 1
    assert tokenizer.encode("<extra_id_0>") == [last] and tokenizer.encode("<extra_id_99>") == [last - 99]


def test_tokens_that_the_config_adds_stand_behind_the_pieces(folder):
    data = train(model_type="bpe", byte_fallback=True)
    (folder / "tokenizer.model").write_bytes(data)
    size = sentencepiece.SentencePieceProcessor(model_proto=data).get_piece_size()

    def declare(first: int) -> None:
        tokens = {str(first + n): {"content": t, "special": True} for n, t in enumerate(("<|turn|>", "<|end|>"))}
        declared = {"2": {"content": "</s>", "special": True}} | tokens
        config = {"eos_token": "<|end|>", "added_tokens_decoder": declared}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))

    declare(size)
    tokenizer = Tokenizer.from_folder(folder)
    assert tokenizer.encode("<|turn|>") == [size] and tokenizer.eos_id == size + 1 == tokenizer.vocab_size - 1
    assert tokenizer.decode(tokenizer.encode("aspirin<|end|>")) == "aspirin"
    declare(size + 1)
    with pytest.raises(UserError, match=rf"'<\|turn\|>' as id {size + 1}; the SentencePiece model leaves {size} next"):
        Tokenizer.from_folder(folder)


def test_the_second_time_it_comes_from_the_cache(folder, tmp_path, monkeypatch):
    (folder / "tokenizer.model").write_bytes(train(model_type="bpe"))
    first = Tokenizer.from_folder(folder)
    monkeypatch.setattr("itune.data.sentencepiece_model._convert", None)
    assert Tokenizer.from_folder(folder).digest == first.digest
    assert len(list((tmp_path / "cache" / "tokenizers").iterdir())) == 1


@pytest.mark.parametrize(
    ("data", "message"),
    [(b"no model at all", "tokenizer.model: not a SentencePiece model"), (b"", "it has no pieces")],
)
def test_what_is_no_model_is_named(folder, data, message):
    (folder / "tokenizer.model").write_bytes(data)
    with pytest.raises(UserError, match=message):
        Tokenizer.from_folder(folder)


def test_words_are_no_supported_kind(folder):
    (folder / "tokenizer.model").write_bytes(train(model_type="word"))
    with pytest.raises(UserError, match="a SentencePiece model of words or characters"):
        Tokenizer.from_folder(folder)
