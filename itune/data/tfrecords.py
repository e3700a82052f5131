"""Records of TFRecord files of tf.train.Example, without a description of their features.

A feature of one value is that value, of several a list, of none null; bytes that are UTF-8 are text. SeqIO's
TFExampleDataSource reads such files, too, given a description; `add_task` takes it as any other source.
"""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itune.data.arrow_files import library
from itune.errors import UserError

_FRAME = 16  # bytes around each record: its length and two checksums
_NAME = re.compile(r"\.(tfrecords?)(-\d+-of-\d+)?(\.gz)?$")


def is_tfrecord(name: str) -> bool:
    """By its name: x.tfrecord, x.tfrecord.gz, x.tfrecord-00000-of-00010."""
    return _NAME.search(name) is not None


def tfrecord_records(file: Path, shown: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, record); `shown` is the file's name in `where` ("x.tfrecord[7]") and in errors.

    Raises UserError for a file that is cut short, damaged (its checksums are verified) or holds no tf.train.Example.
    """
    tf = library("tensorflow", shown)
    packed = "GZIP" if file.suffix == ".gz" else ""
    messages = iter(tf.data.TFRecordDataset(str(file), compression_type=packed).as_numpy_iterator())
    index = read = 0
    while True:
        where = f"{shown}[{index}]"
        try:
            message = next(messages)
        except StopIteration:
            _check_end(file, shown, index, read)
            return
        except tf.errors.OpError as error:
            raise UserError(f"{where}: cannot be read as TFRecord: {_reason(error)}") from None
        try:
            example = tf.train.Example.FromString(message)
        except Exception:  # protobuf's DecodeError; its home differs by version
            raise UserError(f"{where}: not a tf.train.Example") from None
        yield where, {name: _value(feature) for name, feature in sorted(example.features.feature.items())}
        index += 1
        read += len(message) + _FRAME


def _check_end(file: Path, shown: str, index: int, read: int) -> None:
    """TensorFlow takes a file that is cut within a record's first 12 bytes for one that ends there."""
    size = file.stat().st_size
    if file.suffix == ".gz":
        try:
            with gzip.open(file) as unpacked:
                size = unpacked.seek(0, os.SEEK_END)
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{shown}[{index}]: cannot be read: {error}") from None
    if read != size:
        raise UserError(f"{shown}[{index}]: cannot be read as TFRecord: it is cut short")


def broken_place(files: list[str]) -> str:
    """ " (x.tfrecord[7])" for the first record of `files` that cannot be read: TensorFlow's own error names no file."""
    for file in files:
        try:
            for _ in tfrecord_records(Path(file), file):
                pass
        except UserError as error:
            return f" ({str(error).partition(': ')[0]})"
    return ""


def _reason(error: Any) -> str:
    """TensorFlow's reason without the operation in its graph: "truncated record at 4711"."""
    lines = [line.strip() for line in str(error.message).splitlines() if line.strip()]
    return (
        re.sub(r"^(\{\{.*?\}\} ?)+|'? failed with .*| \[Op:.*", "", lines[0])[:200] if lines else type(error).__name__
    )


def _value(feature: Any) -> Any:
    kind = feature.WhichOneof("kind")
    if kind is None:
        return None
    values = list(getattr(feature, kind).value)
    if kind == "bytes_list":
        values = [_text(value) for value in values]
    elif kind == "float_list":
        values = [float(str(np.float32(value))) for value in values]  # 0.1, not 0.10000000149011612
    if len(values) == 1:
        return values[0]
    return values or None


def _text(value: bytes) -> Any:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value  # an image, or another encoding: who asks for it as text is told that it is bytes
