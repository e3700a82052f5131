"""Gemma's tokenizer against the sentencepiece package, over a model rebuilt from the GGUF file's metadata."""

from __future__ import annotations

from pathlib import Path

import sentencepiece
from sentencepiece import sentencepiece_model_pb2

from itune.data.tokenizer import Tokenizer
from itune.weights.gguf_file import GGUFFile
from tests.parity import corpus
from tests.parity.prompts import TOKEN_LINES

UNKNOWN, CONTROL = 2, 3


def rebuilt(path: Path) -> sentencepiece.SentencePieceProcessor:
    metadata = GGUFFile(path).metadata
    proto = sentencepiece_model_pb2.ModelProto()
    columns = [metadata[f"tokenizer.ggml.{name}"] for name in ("tokens", "scores", "token_type")]
    unknown = metadata["tokenizer.ggml.unknown_token_id"]
    for n, (token, score, kind) in enumerate(zip(*columns, strict=True)):
        piece = token if kind == CONTROL else token.replace(" ", "\u2581")
        proto.pieces.add(piece=piece, score=score, type=UNKNOWN if n == unknown else kind)
    proto.trainer_spec.model_type = sentencepiece_model_pb2.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    proto.normalizer_spec.escape_whitespaces = True
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())


def differing_lines(path: Path, folder: Path) -> tuple[int, list[str]]:
    """(lines compared, those with other ids). Lines that spell a control token are left out: with us it is one."""
    theirs, ours = rebuilt(path), Tokenizer.from_folder(folder)
    root = corpus.data_dir()
    lines = [*TOKEN_LINES, *(corpus.texts(root) if root is not None else [])]
    lines = [line for line in lines if not set(ours.encode(line)) & set(ours.added_ids) or "<" not in line]
    found = ours.encode_batch(lines)
    return len(lines), [line for line, ids in zip(lines, found, strict=True) if theirs.encode(line) != ids]
