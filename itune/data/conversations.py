"""Conversations as rows: OpenAI messages, ShareGPT, Open Assistant trees. Pure Python: no SeqIO.

A row is a whole conversation, whose turns become spans of their own; or one assistant turn with the turns before it as
text, for what knows inputs and targets only.
"""

from __future__ import annotations

import collections
import dataclasses
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from itune.data.readers import field_text, read_records, require
from itune.data.splits import normalise, split_of, text_key
from itune.data.turns import ASSISTANT, SYSTEM, TURNS_FEATURE, USER, Turn, layout, write_turns
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)

# A row's "file:line", under a name that no field can have: for errors, and no part of the data.
PLACE = "<place>"
TURNS = ("all", "last", "each")
PATHS = ("best", "all")

_OPENAI_ROLES = {"system": SYSTEM, "developer": SYSTEM, "user": USER, "assistant": ASSISTANT}
_SHAREGPT_ROLES = {
    "system": SYSTEM,
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "assistant": ASSISTANT,
}
_OASST_ROLES = {"system": SYSTEM, "prompter": USER, "assistant": ASSISTANT}
_TOOL_ROLES = ("tool", "tool_call", "function", "function_call", "function_response", "observation")

_TOOLS = "conversations with tool calls"
_NOT_TEXT = "conversations with more than text"
_NO_REPLY = "conversations without an assistant's turn after a user's"
_BLANK = "blank turns"
_UNTRAINED = "turns of weight 0"
_DELETED = "deleted messages and replies below them"
_LOST = "messages whose parents are not in the file"

Records = Iterable[tuple[str, dict[str, Any]]]
Counts = collections.Counter[str]

# A conversation and its place in the source, "file:7".
Placed = tuple[str, list[Turn]]
# Reads records into conversations, and counts what it leaves out.
Reader = Callable[[Records, Counts], Iterator[Placed]]
# (where, an Open Assistant message) -> why it is left out, with all replies below it; "" for one that is kept.
Drop = Callable[[str, Mapping[str, Any]], str]


class _LeftOut(Exception):
    """This conversation is no example; the message is the reason to count."""


def examples(turns: Sequence[Turn], which: str, learnt: dict[str, str], left_out: Counts) -> Iterator[dict[str, str]]:
    """The rows of one conversation: {"id", "inputs", "targets", "turn"}, and for "all" and "last" also "turns_json".

    "all"   one row, all of its replies (assistant turns after a user's) to be learnt
    "last"  one row, the last reply to be learnt; the earlier are read only
    "each"  a row for each reply, with the turns before it as the text of its inputs

    targets is the last learnt reply and inputs the turns before it, as `layout` says; what comes after it is cut off.
    The id is that reply's own, or else a hash of inputs and targets. "turn" counts the user turns so far, from "1".

    learnt: {id: hash of the text} of every reply so far, added to. A reply that conversations share, with all that
    comes before it, is learnt once: where it comes again it is read only. UserError if one id stands for two texts.
    """
    replies = [i for i, turn in enumerate(turns) if turn.role == ASSISTANT and _asked(turns[:i])]
    if not replies:
        left_out[_NO_REPLY] += 1
    rows: dict[int, dict[str, str]] = {}
    for index in replies[-1:] if which == "last" else replies:
        turn, earlier = turns[index], turns[:index]
        if not turn.trained:
            left_out[_UNTRAINED] += 1
        elif not turn.text or not any(t.text for t in earlier if t.role == USER):
            left_out[_BLANK] += 1
        else:
            inputs = layout(earlier)
            content = text_key(inputs, turn.text)
            row_id = turn.id or content
            if row_id not in learnt:
                rows[index] = {"id": row_id, "inputs": inputs, "targets": turn.text, "turn": str(_asked(earlier))}
            elif learnt[row_id] != content:
                raise UserError(f"message {row_id!r} comes twice, with different text")
            learnt[row_id] = content
    if which == "each":
        yield from rows.values()
    elif rows:
        last = max(rows)
        kept = [dataclasses.replace(turn, trained=i in rows) for i, turn in enumerate(turns[: last + 1])]
        yield rows[last] | {TURNS_FEATURE: write_turns(kept)}


def _asked(turns: Sequence[Turn]) -> int:
    return sum(turn.role == USER for turn in turns)


def conversation_rows(
    split: str,
    *,
    path: str,
    conversations: Reader,
    turns: str,
    identity: str,
    validation_fraction: float,
    encoding: str,
) -> Iterator[dict[str, str]]:
    """The rows of a `RowSource`: `examples` of every conversation of the file or pattern, each reply learnt once.

    All turns of a conversation, and of others that begin with the same user turn, are on one side. A log line counts
    what is left out. UserError where nothing is left, or one id stands for two texts.
    """
    learnt: dict[str, str] = {}
    left_out: Counts = collections.Counter()
    for where, conversation in conversations(read_records(path, encoding), left_out):
        opening = next((turn.text for turn in conversation if turn.role == USER), "")
        side = split_of(normalise(opening), identity=identity, validation_fraction=validation_fraction)
        try:
            rows = [*examples(conversation, turns, learnt, left_out)]
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        if side == split:
            yield from ({**row, PLACE: where} for row in rows)
    counted = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
    if not learnt:
        raise UserError(f"{path}: no turn to learn from; left out: {counted or 'nothing'}")
    if counted:
        log.warning("%s: left out: %s", path, counted)


# OpenAI and ShareGPT


def openai_conversations(records: Records, left_out: Counts, key: str = "messages") -> Iterator[Placed]:
    """{"messages": [{"role": "user", "content": "2+2?"}, ...]} -> [Turn(role=USER, text="2+2?"), ...].

    Content in parts of type "text" is joined by line breaks. Left out: conversations with tools, or other parts.
    """
    for where, record in records:
        try:
            yield where, [_openai_turn(message, at) for at, message in _messages(record, key, where)]
        except _LeftOut as reason:
            left_out[str(reason)] += 1


def _openai_turn(message: Mapping[str, Any], at: str) -> Turn:
    role = _role(message, "role", _OPENAI_ROLES, at)
    if message.get("tool_calls") or message.get("function_call"):
        raise _LeftOut(_TOOLS)
    content = message.get("content")
    if isinstance(content, list):
        parts = [part for _, part in _messages(message, "content", at)]
        if any(part.get("type") != "text" for part in parts):
            raise _LeftOut(_NOT_TEXT)
        message = {**message, "content": "\n".join(field_text(part, "text", at) for part in parts)}
    # "weight": 0 on an assistant's message keeps it as context only.
    return Turn(role=role, text=_trim(field_text(message, "content", at)), trained=message.get("weight") != 0)


def sharegpt_conversations(records: Records, left_out: Counts, key: str = "conversations") -> Iterator[Placed]:
    """{"conversations": [{"from": "human", "value": "2+2?"}, ...]} -> [Turn(role=USER, text="2+2?"), ...].

    A "system" text beside the conversation comes first. Left out: conversations with tools.
    """
    for where, record in records:
        try:
            system = _trim(field_text(record, "system", where, optional=True))
            turns = [Turn(role=SYSTEM, text=system)] if system else []
            for at, message in _messages(record, key, where):
                role = _role(message, "from", _SHAREGPT_ROLES, at)
                turns.append(Turn(role=role, text=_trim(field_text(message, "value", at))))
            yield where, turns
        except _LeftOut as reason:
            left_out[str(reason)] += 1


def _messages(record: Mapping[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, message) for the objects of the list record[key]; a null is an empty list."""
    require(record, key, where)
    messages = record[key] or []
    if not isinstance(messages, list):
        raise UserError(f"{where}: {key!r} is a {type(messages).__name__}, must be a list of messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise UserError(f"{where}: {key}[{index}] is a {type(message).__name__}, must be an object")
        yield f"{where}: {key}[{index}]", message


def _role(message: Mapping[str, Any], key: str, roles: Mapping[str, str], at: str) -> str:
    name = field_text(message, key, at)
    if name in _TOOL_ROLES:
        raise _LeftOut(_TOOLS)
    if name not in roles:
        raise UserError(f"{at}: {key} is {name!r:.40}, must be one of {', '.join(roles)}.{nearest(name, roles)}")
    return roles[name]


def _trim(text: str) -> str:
    """As a template trims its sides: an indented first line stays indented."""
    return text.strip("\n").rstrip()


# Open Assistant


@dataclasses.dataclass
class _Message:
    turn: Turn
    rank: float
    dropped: str  # why, or ""
    replies: list[_Message]


def oasst_conversations(
    records: Records, left_out: Counts, paths: str = "best", drop: Drop | None = None
) -> Iterator[Placed]:
    """Paths from each tree's prompt to a message without replies: the "best" one, or "all".

    Records are trees, {"prompt": {"message_id", "text", "role": "prompter", "replies": [...]}}, or single messages,
    {"message_id", "parent_id", "text", "role"}, in any order. "best" takes the reply of the lowest `rank`; replies
    without one come last, in the order of the file. Left out: what is deleted, what `drop` says, and all below
    these; what hangs from no prompt.
    """
    flat: dict[str, tuple[_Message, str]] = {}
    places: dict[str, str] = {}
    for where, record in records:
        if isinstance(record.get("prompt"), dict):
            prompt = {"tree_state": record.get("tree_state")} | record["prompt"]
            for turns in _paths(_tree(where, prompt, drop), paths, left_out):
                yield where, turns
        elif "message_id" in record:
            message = _message(where, record, drop)
            if message.turn.id in flat:
                raise UserError(f"{where}: message_id {message.turn.id!r} comes twice")
            places[message.turn.id] = where
            flat[message.turn.id] = (message, field_text(record, "parent_id", where, optional=True))
        else:
            raise UserError(
                f"{where}: neither a tree (an object under 'prompt') nor a message (with 'message_id')."
                f"{nearest('message_id', record)}"
            )
    for message, parent in flat.values():
        if parent in flat:
            flat[parent][0].replies.append(message)
    roots = [message for message, parent in flat.values() if not parent]
    lost = len(flat) - sum(_size(root) for root in roots)
    if lost:
        left_out[_LOST] += lost
    for root in roots:
        for turns in _paths(root, paths, left_out):
            yield places[turns[-1].id], turns


def _tree(where: str, prompt: dict[str, Any], drop: Drop | None) -> _Message:
    root = _message(f"{where}: prompt", prompt, drop)
    waiting = [(root, prompt)]
    while waiting:
        message, record = waiting.pop()
        if record.get("replies"):
            for at, reply in _messages(record, "replies", f"{where}: message {message.turn.id!r}"):
                message.replies.append(_message(at, reply, drop))
                waiting.append((message.replies[-1], reply))
    return root


def _message(at: str, record: Mapping[str, Any], drop: Drop | None) -> _Message:
    row_id = field_text(record, "message_id", at)
    if not row_id:
        raise UserError(f"{at}: 'message_id' is blank")
    role, deleted = _role(record, "role", _OASST_ROLES, at), bool(record.get("deleted"))
    text = _trim(field_text(record, "text", at, optional=deleted))
    turn = Turn(role=role, text=text, id=row_id)
    rank = _rank(record, at)
    dropped = _DELETED if deleted else drop(at, record) if drop else ""
    return _Message(turn=turn, rank=rank, dropped=dropped, replies=[])


def _rank(record: Mapping[str, Any], at: str) -> float:
    """Infinity where there is none; NaN is how some tables write that."""
    rank = record.get("rank")
    if rank is None:
        return math.inf
    if not isinstance(rank, int | float):
        raise UserError(f"{at}: 'rank' is a {type(rank).__name__}, must be a number")
    return math.inf if math.isnan(rank) else rank


def _paths(root: _Message, paths: str, left_out: Counts) -> Iterator[list[Turn]]:
    waiting: list[tuple[_Message, list[Turn]]] = [(root, [])]
    if root.dropped:
        left_out[root.dropped] += _size(root)
        return
    _prune(root, left_out)
    while waiting:
        message, earlier = waiting.pop()
        turns = [*earlier, message.turn]
        if not message.replies:
            yield turns
        elif paths == "best":
            waiting.append((min(message.replies, key=lambda reply: reply.rank), turns))
        else:
            waiting += [(reply, turns) for reply in reversed(message.replies)]


def _prune(root: _Message, left_out: Counts) -> None:
    """Takes dropped messages out of the tree, and all below them."""
    for message in _below(root):
        for reply in message.replies:
            if reply.dropped:
                left_out[reply.dropped] += _size(reply)
        message.replies = [reply for reply in message.replies if not reply.dropped]


def _size(root: _Message) -> int:
    return sum(1 for _ in _below(root))


def _below(root: _Message) -> Iterator[_Message]:
    """The message and all below it. Without recursion: a thread may be deeper than Python's stack."""
    waiting = [root]
    while waiting:
        message = waiting.pop()
        yield message
        waiting += message.replies
