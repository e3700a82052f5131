"""SeqIO's Vocabulary over a model's own tokenizer: what late binding puts into a task's features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from itune.data.tokenizer import Tokenizer


class HFVocabulary(seqio.Vocabulary):
    """Ids are the model's own. SeqIO reserves 0 for padding in its vocabularies; here 0 is an ordinary token, and no
    id ever means "absent": prepared data carries lengths and weights instead.

    Works inside tf.data through tf.numpy_function (the Rust tokenizer releases the GIL, so maps run in parallel).
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(extra_ids=0)
        self.tokenizer = tokenizer

    @property
    def bos_id(self) -> int | None:
        return self.tokenizer.bos_id

    @property
    def eos_id(self) -> int:
        return self.tokenizer.eos_id

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id if self.tokenizer.pad_id is not None else self.tokenizer.eos_id

    @property
    def unk_id(self) -> None:
        return None  # byte-level tokenizers have none; SeqIO then leaves ids as they are

    @property
    def _base_vocab_size(self) -> int:
        return self.tokenizer.vocab_size

    def _encode(self, s: str) -> Sequence[int]:
        return self.tokenizer.encode(s)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.tokenizer.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> Any:
        """string [] -> int32 [tokens]; string [n, ...] -> ragged int32 [n, ..., (tokens)]."""
        s = tf.convert_to_tensor(s)
        if s.shape.rank == 0:
            return self._encode_scalar(s)
        spec = tf.RaggedTensorSpec([None], tf.int32, ragged_rank=0)
        flat = tf.map_fn(self._encode_scalar, tf.reshape(s, [-1]), fn_output_signature=spec)
        if s.shape.rank == 1:
            return flat
        raise NotImplementedError(f"HFVocabulary encodes strings of rank 0 or 1, not {s.shape.rank}")

    def _encode_scalar(self, s: tf.Tensor) -> tf.Tensor:
        ids = tf.numpy_function(self._encode_bytes, [s], tf.int32, stateful=False)
        ids.set_shape([None])
        return ids

    def _encode_bytes(self, data: Any) -> np.ndarray:
        # numpy_function gives bytes inside tf.data, and a 0-d array of them when called eagerly.
        text = data.item() if isinstance(data, np.ndarray) else data
        return np.asarray(self.tokenizer.encode(text.decode("utf-8")), np.int32)

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        """int32 [..., tokens] -> string [...], each row up to its first EOS."""
        ids = tf.convert_to_tensor(ids)
        text = tf.numpy_function(self._decode_rows, [ids], tf.string, stateful=False)
        text.set_shape(ids.shape[:-1])
        return text

    def _decode_rows(self, ids: np.ndarray) -> np.ndarray:
        rows = ids.reshape(-1, ids.shape[-1])
        texts = [self.decode(row.tolist()).encode("utf-8") for row in rows]
        return np.array(texts, dtype=object).reshape(ids.shape[:-1])

    def decode(self, ids: Iterable[int]) -> str:
        """Text up to the first EOS, special tokens left out."""
        ids = [int(i) for i in ids]
        if self.eos_id in ids:
            ids = ids[: ids.index(self.eos_id)]
        return self._decode(ids)

    def decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        # SeqIO's version overwrites what follows EOS with pad_id, which a tokenizer without padding cannot spell.
        return self._decode_tf(ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HFVocabulary) and self.tokenizer.digest == other.tokenizer.digest

    def __hash__(self) -> int:
        return hash(self.tokenizer.digest)

    def __repr__(self) -> str:
        return f"HFVocabulary(size={self.vocab_size}, digest={self.tokenizer.digest[:16]})"
