"""The tokenizer in a GGUF file's metadata -> a Hugging Face folder's tokenizer.json and tokenizer_config.json.

Byte-level BPE ("gpt2") and SentencePiece with scores ("llama"). How text is cut before BPE's merges apply is not in the
file, only its name (tokenizer.ggml.pre); llama.cpp's source is where the names are defined.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from itune.data.sentencepiece_model import CONTROL, NORMAL, SPACE, UNKNOWN, USER_DEFINED, bpe
from itune.errors import UserError, nearest


def _gpt2() -> Any:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _smollm() -> Any:
    # Every numeral alone, before GPT-2's pattern sees the text: "\n\n1" is "\n\n", "1" and not "\n", "\n", "1".
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


def _split(pattern: str) -> Callable[[], Any]:
    """Cut by a pattern of its own, then bytes."""

    def make() -> Any:
        cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated", invert=False)
        return pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    return make


# The patterns that the models' own tokenizer.json have. Qwen 2 cuts numbers into single digits, Llama 3 into threes.
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}DIGITS"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PRE_TOKENIZERS: dict[str, Callable[[], Any]] = {
    "gpt-2": _gpt2,
    "smollm": _smollm,
    "qwen2": _split(_WORDS.replace("DIGITS", "")),
    "llama-bpe": _split(_WORDS.replace("DIGITS", "{1,3}")),
    "tekken": _split(
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    ),
}
# A word that is a token stays one, whatever the merges would make of it.
WHOLE_WORDS = ("llama-bpe", "tekken")
# Composed characters, as the model's own tokenizer.json has them.
COMPOSED = ("qwen2",)
# Where the file does not say so, text begins with BOS.
BEGINS_WITH_BOS = ("llama-bpe", "tekken")

# our key in tokenizer_config.json: the metadata's key
SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}


def build_tokenizer(metadata: dict[str, Any], where: str) -> Tokenizer:
    """A tokenizer whose ids are the metadata's: token i of tokenizer.ggml.tokens has id i.

    Args:
      metadata: key -> value, as GGUF names them.  where: the file, for messages.

    Raises: UserError naming a tokenizer model or pre-tokenizer that is not supported, or what is missing.
    """
    model, pre = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    if model == "llama":
        return _sentencepiece(metadata, where)
    if model != "gpt2":
        raise UserError(
            f"{where}: tokenizer.ggml.model is {model!r}; only 'gpt2' (byte-level BPE) and 'llama' (SentencePiece) are "
            "supported"
        )
    if pre not in PRE_TOKENIZERS:
        hint = nearest(str(pre), PRE_TOKENIZERS)
        raise UserError(f"{where}: tokenizer.ggml.pre is {pre!r}; supported are {', '.join(PRE_TOKENIZERS)}.{hint}")
    tokens = list(_need(metadata, "tokenizer.ggml.tokens", where))
    types = list(_need(metadata, "tokenizer.ggml.token_type", where))
    vocab = {token: i for i, token in enumerate(tokens)}
    if len(vocab) != len(tokens) or len(types) != len(tokens):
        raise UserError(
            f"{where}: tokenizer.ggml.tokens has {len(tokens)} entries, {len(vocab)} of them different, "
            f"and tokenizer.ggml.token_type {len(types)}"
        )
    merges = _merges(metadata, vocab, where)
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=pre in WHOLE_WORDS))
    if pre in COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = PRE_TOKENIZERS[pre]()
    tokenizer.decoder = decoders.ByteLevel()
    _add(tokenizer, tokens, types)
    return tokenizer


def _sentencepiece(metadata: dict[str, Any], where: str) -> Tokenizer:
    tokens, scores, types = (
        list(_need(metadata, f"tokenizer.ggml.{x}", where)) for x in ("tokens", "scores", "token_type")
    )
    if not len(tokens) == len(scores) == len(types):
        raise UserError(f"{where}: tokenizer.ggml has {len(tokens)} tokens, {len(scores)} scores, {len(types)} types")
    unknown = metadata.get("tokenizer.ggml.unknown_token_id")
    types = [UNKNOWN if n == unknown else kind for n, kind in enumerate(types)]  # files mark it as they like
    # Files spell user-defined runs of spaces as spaces; in SentencePiece's text there are none.
    spelled = (NORMAL, USER_DEFINED)
    tokens = [t.replace(" ", SPACE) if kind in spelled else t for t, kind in zip(tokens, types, strict=True)]
    return bpe(tokens, scores, types, prefix=bool(metadata.get("tokenizer.ggml.add_space_prefix", True)), where=where)


def _merges(metadata: dict[str, Any], vocab: dict[str, int], where: str) -> list[tuple[str, str]]:
    merges = []
    for line in _need(metadata, "tokenizer.ggml.merges", where):
        left, space, right = line.partition(" ")
        if not space or not {left, right, left + right} <= vocab.keys():
            raise UserError(f"{where}: tokenizer.ggml.merges has {line!r}, which joins no two tokens of the vocabulary")
        merges.append((left, right))
    return merges


def _add(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Control and user-defined tokens match whole, wherever they stand; control tokens are left out in decoding."""
    control = [
        AddedToken(t, normalized=False, special=True) for t, kind in zip(tokens, types, strict=True) if kind == CONTROL
    ]
    defined = [AddedToken(t, normalized=False) for t, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    tokenizer.add_special_tokens(control)
    tokenizer.add_tokens(defined)


def tokenizer_config(metadata: dict[str, Any], where: str) -> dict[str, Any]:
    """tokenizer_config.json: special tokens by their text, whether they are added by default, the chat template."""
    tokens = _need(metadata, "tokenizer.ggml.tokens", where)
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    for name, key in SPECIAL.items():
        token_id = metadata.get(key)
        if token_id is None:
            continue
        if not 0 <= token_id < len(tokens):
            raise UserError(f"{where}: {key} is {token_id}, outside the vocabulary of {len(tokens)}")
        config[name] = tokens[token_id]
    begins = metadata.get("tokenizer.ggml.model") == "llama" or metadata.get("tokenizer.ggml.pre") in BEGINS_WITH_BOS
    config["add_bos_token"] = bool(metadata.get("tokenizer.ggml.add_bos_token", begins and "bos_token" in config))
    config["add_eos_token"] = bool(metadata.get("tokenizer.ggml.add_eos_token", False))
    if (template := metadata.get("tokenizer.chat_template")) is not None:
        config["chat_template"] = template
    return config


def _need(metadata: dict[str, Any], key: str, where: str) -> Any:
    if key not in metadata:
        raise UserError(f"{where}: its metadata lacks {key}")
    return metadata[key]
