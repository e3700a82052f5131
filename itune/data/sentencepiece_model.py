"""SentencePiece models as `tokenizers` has them, so that offsets, batches and digests are the same for all.

BPE pieces with scores become merges ranked by score (Kudo & Richardson 2018's BPE merges what scores highest, the
leftmost first); unigram pieces keep their scores.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from itune.cache import cache_dir
from itune.errors import UserError

SPACE = "\u2581"  # SentencePiece's sign for a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
CONVERTER = 2  # raise it when what is made changes: cached files are made anew
FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")


def read_model(path: Path, extra_ids: int = 0) -> tuple[str, dict[str, str]]:
    """(tokenizer.json's text, {"eos_token": "</s>", ...}) of a .model file; kept in the cache by the file's digest.

    extra_ids: T5's sentinels "<extra_id_0>", ..., which stand behind the pieces, the first one last.
    Raises: UserError if it is no SentencePiece model, or of a kind that is neither BPE nor unigram.
    """
    from sentencepiece import sentencepiece_model_pb2  # type: ignore[import-untyped]

    data = path.read_bytes()
    proto = sentencepiece_model_pb2.ModelProto()
    try:
        proto.ParseFromString(data)
    except Exception as error:  # protobuf's own, which need not be named here
        raise UserError(f"{path}: not a SentencePiece model ({error})") from None
    if not proto.pieces:
        raise UserError(f"{path}: not a SentencePiece model (it has no pieces)")
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    ids = (proto.trainer_spec.bos_id, proto.trainer_spec.eos_id, proto.trainer_spec.unk_id, proto.trainer_spec.pad_id)
    special = {n: proto.pieces[i].piece for n, i in zip(names, ids, strict=True) if 0 <= i < len(proto.pieces)}
    digest = hashlib.sha256(data + f"{CONVERTER} {extra_ids}".encode()).hexdigest()
    cached = cache_dir() / "tokenizers" / f"{digest[:24]}.json"
    if cached.is_file():
        return cached.read_text("utf-8"), special
    text = _convert(proto, extra_ids, path).to_str()
    cached.parent.mkdir(parents=True, exist_ok=True)
    partial = cached.with_suffix(".partial")
    partial.write_text(text, "utf-8")
    partial.replace(cached)
    return text, special


def add_declared(text: str, declared: Mapping[str, Any], where: str) -> str:
    """tokenizer.json's text with a tokenizer_config.json's added_tokens_decoder, {"32000": {"content": ...}, ...}.

    Raises: UserError naming `where` for an id that is another token's, or that leaves a gap.
    """
    tokenizer = Tokenizer.from_str(text)
    for number, token in sorted(declared.items(), key=lambda item: int(item[0])):
        content, special = str(token["content"]), bool(token.get("special", False))
        found = tokenizer.token_to_id(content)
        if int(number) != (tokenizer.get_vocab_size() if found is None else found):
            raise UserError(
                f"{where}: added_tokens_decoder has {content!r} as id {number}; the SentencePiece model leaves "
                + (f"{tokenizer.get_vocab_size()} next" if found is None else f"it at {found}")
            )
        fields = {key: bool(token.get(key, False)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
        added = AddedToken(content, special=special, **fields)
        tokenizer.add_special_tokens([added]) if special else tokenizer.add_tokens([added])
    return tokenizer.to_str()


def _convert(proto: Any, extra_ids: int, path: Path) -> Tokenizer:
    tokens, scores = [p.piece for p in proto.pieces], [p.score for p in proto.pieces]
    types = [p.type for p in proto.pieces]
    kind, rules = proto.trainer_spec.model_type, proto.normalizer_spec
    sentinels = [f"<extra_id_{n}>" for n in reversed(range(extra_ids))]
    if kind == 2:
        tokenizer = bpe(
            tokens, scores, types, prefix=rules.add_dummy_prefix, where=str(path), rules=_normalizers(rules)
        )
    elif kind == 1:
        tokenizer = _unigram(tokens, scores, types, rules, sentinels)
    else:
        raise UserError(f"{path}: a SentencePiece model of words or characters; BPE and unigram are supported")
    tokenizer.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in sentinels])
    return tokenizer


def _normalizers(rules: Any) -> list[Any]:
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    return steps


def bpe(
    tokens: Sequence[str],
    scores: Sequence[float],
    types: Sequence[int],
    *,
    prefix: bool,
    where: str,
    rules: Sequence[Any] = (),
) -> Tokenizer:
    """Pieces, their scores and SentencePiece's types -> a tokenizer whose ids are their places.

    prefix: whether a space is put before the text.  rules: normalizers that come first.
    Raises: UserError naming `where` for pieces that come twice.
    """
    vocab = {token: n for n, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise UserError(f"{where}: {len(tokens)} pieces, {len(vocab)} of them different")
    unknown = next((t for t, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    fallback = sum(kind == BYTE for kind in types) == 256
    merges = _merges(vocab, scores, types)
    model = models.BPE(vocab=vocab, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    tokenizer = Tokenizer(model)
    symbols = [token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED]
    steps = [*rules, *([_prefix(symbols, rules)] if prefix else []), normalizers.Replace(" ", SPACE)]
    tokenizer.normalizer = normalizers.Sequence(steps)
    ends = [decoders.Strip(" ", 1, 0)] if prefix else []
    spell = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    tokenizer.decoder = decoders.Sequence(spell)
    _add(tokenizer, tokens, types)
    return tokenizer


def _prefix(symbols: Sequence[str], rules: Sequence[Any]) -> Any:
    """A space before the text. Symbols are looked for as this leaves them, so it leaves a symbol alone as it is."""
    if not symbols:
        return normalizers.Prepend(SPACE)
    normal = normalizers.Sequence(list(rules)).normalize_str
    alone = "|".join(re.escape(s) for s in sorted({normal(symbol) for symbol in symbols}))
    return normalizers.Replace(Regex(rf"\A(?!(?:{alone})\z)"), SPACE)


def _merges(vocab: dict[str, int], scores: Sequence[float], types: Sequence[int]) -> list[tuple[str, str]]:
    """Every way to make a piece of two others, the highest scores first."""
    usable = {token for token, n in vocab.items() if types[n] in (NORMAL, USER_DEFINED)}
    found = []
    for token in usable:
        if len(token) < 2 or types[vocab[token]] != NORMAL:
            continue
        score = -scores[vocab[token]]
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in usable and right in usable:
                found.append((score, vocab[left], vocab[right], left, right))
    found.sort()
    return [(left, right) for *_, left, right in found]


def _add(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Control tokens match whole and are left out in decoding; user-defined ones match whole in normalised text."""
    pairs = list(zip(tokens, types, strict=True))
    control = [AddedToken(t, normalized=False, special=True) for t, kind in pairs if kind == CONTROL]
    tokenizer.add_special_tokens(control)
    # One that the text's normalisation would leave nothing of is looked for in the text as it is.
    rules = tokenizer.normalizer
    whole = lambda t: rules is None or bool(rules.normalize_str(t))  # noqa: E731
    tokenizer.add_tokens([AddedToken(t, normalized=whole(t)) for t, kind in pairs if kind == USER_DEFINED])


def _unigram(tokens: list[str], scores: list[float], types: list[int], rules: Any, more: list[str]) -> Tokenizer:
    unknown = types.index(UNKNOWN) if UNKNOWN in types else None
    fallback = sum(kind == BYTE for kind in types) == 256
    pieces = [*zip(tokens, scores, strict=True), *((name, 0.0) for name in more)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=fallback))
    steps = _normalizers(rules)
    if steps:
        tokenizer.normalizer = normalizers.Sequence(steps)
    scheme = "always" if rules.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme=scheme)
    if fallback:
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), tokenizer.decoder])
    _add(tokenizer, tokens, types)
    return tokenizer
