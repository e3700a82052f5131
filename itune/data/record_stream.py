"""Records of files that are too large to hold: `stream_records` is `read_records`, a record at a time."""

from __future__ import annotations

import codecs
import contextlib
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from itune.data import remote
from itune.data.arrow_files import arrow_records, library, parquet_records
from itune.data.readers import find_files
from itune.errors import UserError

CHUNK = 1 << 20
# An element of a JSON list that is longer than this many characters is taken for a list that is broken.
LONGEST = 1 << 26
# A number, a literal or an escape that the end of a chunk cuts is shorter than this.
_CUT = 16
_SNIFFED = 4096
_PACKED = (".gz", ".zst")
_DECODER = json.JSONDecoder()


def stream_records(path: str | Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, record) of JSONL, a JSON list of objects, Parquet or Arrow, plain, .gz or .zst, in UTF-8.

    `path` and `where` are as in `itune.data.readers.read_records`; what is in memory is a record or a batch of them.

    Raises:
      UserError: no such file, one that cannot be read, a record that is not one, or a file without any. Records before
        the fault have been yielded by then.
    """
    for file in find_files(path):
        empty = True
        with contextlib.nullcontext(file) if isinstance(file, Path) else remote.fetched(file) as copy:
            for where, record in _records(copy, str(file)):
                if not isinstance(record, dict):
                    raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
                empty = False
                yield where, record
        if empty:
            raise UserError(f"{file}: no records in this file")


def _records(file: Path, shown: str) -> Iterator[tuple[str, Any]]:
    kind = Path(file.stem).suffix if file.suffix in _PACKED else file.suffix
    tables = {".parquet": parquet_records, ".arrow": arrow_records}
    if kind in tables:
        if file.suffix in _PACKED:
            raise UserError(f"{shown}: {kind} files are compressed inside; unpack this one")
        yield from tables[kind](file, shown)
        return
    try:
        with _open(file, shown) as stream:
            is_list = stream.read(_SNIFFED).removeprefix(codecs.BOM_UTF8).lstrip()[:1] == b"["
        with _open(file, shown) as stream:
            yield from _elements(stream, shown) if is_list else _lines(stream, shown)
    except (OSError, EOFError, zlib.error) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{shown}: cannot be read: {str(said).partition(' (b')[0]}") from None  # gzip quotes the file


@contextlib.contextmanager
def _open(file: Path, shown: str) -> Iterator[IO[bytes]]:
    if file.suffix == ".zst":
        arrow = library("pyarrow", shown)
        with arrow.OSFile(str(file)) as packed, arrow.CompressedInputStream(packed, "zstd") as stream:
            yield io.BufferedReader(stream)
    else:
        opened = gzip.open if file.suffix == ".gz" else open
        with opened(file, "rb") as stream:
            yield cast(IO[bytes], stream)


def _lines(stream: IO[bytes], shown: str) -> Iterator[tuple[str, Any]]:
    for number, line in enumerate(stream, 1):
        text = _decoded(line.removeprefix(codecs.BOM_UTF8) if number == 1 else line, f"{shown}:{number}")
        if text.strip():
            try:
                yield f"{shown}:{number}", json.loads(text)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{shown}:{number}: not JSON: {getattr(error, 'msg', error)}; expected a record a line, or one list"
                ) from None


def _decoded(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not utf-8 (byte 0x{data[error.start]:02x}); convert the file") from None


def _elements(stream: IO[bytes], shown: str) -> Iterator[tuple[str, Any]]:
    """The elements of one JSON list, each decoded as soon as the text read so far holds it whole."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    text, place, index, ended = "", 0, 0, False
    while True:
        between = " \t\r\n[" if index == 0 else " \t\r\n,"
        while text[place : place + 1] and text[place] in between:
            place += 1
        if text[place : place + 1] == "]":
            return
        where = f"{shown}[{index}]"
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            if ended or not _may_go_on(error, text, place):
                raise UserError(f"{where}: not JSON: {getattr(error, 'msg', error)}") from None
            text, place = text[place:], 0
            more = stream.read(CHUNK)
            ended = not more
            try:
                text += decoder.decode(more, final=ended)
            except UnicodeDecodeError as fault:
                raise UserError(
                    f"{where}: not utf-8 (byte 0x{fault.object[fault.start]:02x}); convert the file"
                ) from None
            continue
        yield where, value
        index += 1


def _may_go_on(error: Exception, text: str, place: int) -> bool:
    """Whether an element failed to parse because the text ends in it."""
    if not isinstance(error, json.JSONDecodeError) or len(text) - place > LONGEST:
        return False
    return error.pos >= len(text) - _CUT or error.msg.startswith("Unterminated string")
