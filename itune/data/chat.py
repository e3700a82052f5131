"""Spans of a conversation as the tokenizer's own chat template lays it out. Imports neither SeqIO nor JAX.

The whole conversation is rendered once, and each reply is found in that text: by the template's {% generation %} blocks
where it has them, else behind what the template makes of the turns before the reply and its generation prompt. Then it
is verified. A reply's span is

    what generation would be given | the reply's text, blanks around it, the token that closes the turn | what follows

and nothing else of the template's. What can't be had so is an error, never a guess.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from itune.data.records import Span
from itune.data.turns import ASSISTANT, USER, BadRecord, Turn
from itune.errors import UserError

_PROBE = (Turn(role=USER, text="Question"), Turn(role=ASSISTANT, text="Reply"))
_REWRITES = "the chat template leaves out or rewrites a part of the reply"
_USE_PLAIN = "use prompt_format='plain', or put a chat_template.jinja that does into the model's folder"


class PromptTokenizer(Protocol):
    """What rendering needs of `itune.data.tokenizer.Tokenizer`."""

    def __hash__(self) -> int: ...
    @property
    def eos_id(self) -> int: ...
    @property
    def prefix(self) -> list[int]: ...
    @property
    def added_ids(self) -> frozenset[int]: ...
    @property
    def chat_template(self) -> str | None: ...
    def encode(self, text: str) -> list[int]: ...
    def encode_ends(self, text: str) -> tuple[list[int], list[int]]: ...
    def spell(self, ids: Sequence[int]) -> str: ...
    def render_chat(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str: ...
    def render_marked(self, messages: list[dict[str, Any]]) -> tuple[str, list[tuple[int, int]]]: ...


@dataclasses.dataclass(frozen=True)
class _Closing:
    """The token by which a template closes an assistant's turn, its text, and all tokens that it puts around turns."""

    id: int
    text: str
    around: frozenset[int]


def end_of_turn(tokenizer: PromptTokenizer) -> int:
    """The id of the token that closes an assistant's turn: replies are learnt with it, and generation stops there.

    It need not be the tokenizer's EOS, but is where the template closes turns with no such token, which can't be
    trained on.
    """
    try:
        return _find_closing(tokenizer).id
    except UserError:
        return tokenizer.eos_id


@functools.lru_cache(maxsize=8)
def _find_closing(tokenizer: PromptTokenizer) -> _Closing:
    _check_template(tokenizer)
    asked, reply = (turn.message for turn in _PROBE)
    text = tokenizer.render_marked([asked, reply])[0]
    _, found, tail = text.rpartition(reply["content"])
    if not found:
        raise UserError(f"prompt_format='chat': {_REWRITES}; {_USE_PLAIN}")
    ids = tokenizer.encode(tail.lstrip())
    if not ids or ids[0] not in tokenizer.added_ids | {tokenizer.eos_id}:
        written = f"{tail.strip()!r:.30}, which is no single token of its own" if tail.strip() else "nothing"
        raise UserError(
            f"prompt_format='chat': this model's chat template closes an assistant's turn with {written}, so the model "
            f"would not learn to stop; {_USE_PLAIN}"
        )
    prompt = tokenizer.render_chat([asked], add_generation_prompt=True)
    around = frozenset(tokenizer.encode(text) + tokenizer.encode(prompt)) & tokenizer.added_ids
    return _Closing(ids[0], tokenizer.spell(ids[:1]), around | {ids[0]})


@functools.lru_cache(maxsize=8)
def _verified_closing(tokenizer: PromptTokenizer) -> _Closing:
    """UserError for a template that not even a question and its reply can be trained on."""
    closing = _find_closing(tokenizer)
    try:
        _find_replies(tokenizer, _PROBE, closing)
    except BadRecord as error:
        reason = str(error).removeprefix(_which(1))
        raise UserError(f"prompt_format='chat': {reason}; {_USE_PLAIN}") from None
    return closing


def template_ids(tokenizer: PromptTokenizer) -> frozenset[int]:
    """The tokens of their own that the chat template puts around turns, the closing one among them."""
    try:
        return _find_closing(tokenizer).around
    except UserError:
        return frozenset({tokenizer.eos_id})


def _which(turn: int) -> str:
    return f"message {turn + 1}: "


def _check_template(tokenizer: PromptTokenizer) -> None:
    if tokenizer.chat_template is None:
        raise UserError("prompt_format='chat', but this model's tokenizer has no chat template; use 'plain'")


def chat_spans(tokenizer: PromptTokenizer, turns: Sequence[Turn]) -> tuple[Span, ...]:
    """The conversation's spans up to the end of its last learnt reply.

    A supervised span is a reply and the token that closes it; the others are what the template makes of the turns
    between them, each with the header that opens the next. Ids are those of the text encoded as a whole, unless a
    reply's prompt would then be other tokens than generation is given: there the text is encoded in two parts.

    Raises:
      BadRecord: no reply is left to learn, or this conversation can't be laid out and verified.
      UserError: the template can't be trained on at all.
    """
    closing = _verified_closing(tokenizer)
    text, replies = _find_replies(tokenizer, turns, closing)
    text = text[: replies[-1].end]
    ids, ends, first = _encode(tokenizer, text, [reply.start for reply in replies])
    spans: list[Span] = []
    done, turn = 0, 0
    for reply, start in zip(replies, first, strict=True):
        last = _last_token(ids, ends, start, reply, closing)
        spans += _context(tokenizer, text, turns, (turn, reply.turn), ids, ends, (done, start))
        spans.append(_span(ASSISTANT, ids[start : last + 1], supervised=True))
        done, turn = last + 1, reply.turn + 1
    return tuple(spans)


def chat_prompt(tokenizer: PromptTokenizer, turns: Sequence[Turn]) -> list[int]:
    """The token ids that a model is given to reply after these turns: in a record, all that stands before the reply."""
    _check_template(tokenizer)
    text, cuts = _head(tokenizer, turns), []
    for n, turn in enumerate(turns):
        if turn.learnt:
            head = _head(tokenizer, turns[:n])
            cuts += [len(head)] if text.startswith(head) else []
    return _encode(tokenizer, text, cuts)[0]


# In the text


@dataclasses.dataclass(frozen=True)
class _Reply:
    """A learnt turn, and where in the text its span begins and ends."""

    turn: int
    start: int
    end: int


def _find_replies(tokenizer: PromptTokenizer, turns: Sequence[Turn], closing: _Closing) -> tuple[str, list[_Reply]]:
    """The whole conversation's text, and the learnt replies in it, verified."""
    if not any(turn.learnt for turn in turns):
        raise BadRecord("no reply in it is to be learnt")
    try:
        text, blocks = tokenizer.render_marked([turn.message for turn in turns])
        replies = [n for n, turn in enumerate(turns) if turn.role == ASSISTANT]
        if blocks and len(blocks) != len(replies):
            raise BadRecord(f"the chat template has {len(blocks)} generation blocks for {len(replies)} assistant turns")
        found = []
        for number, n in enumerate(replies):
            if turns[n].learnt:
                head = _head(tokenizer, turns[:n])
                block = blocks[number] if blocks else None
                found.append(_find_reply(text, head, block, n, turns[n].text.strip(), closing.text))
        return text, found
    except UserError as error:  # the template refuses these turns; what it says may quote them
        quoted = any(turn.text and turn.text in str(error) for turn in turns)
        raise BadRecord("the model's chat template refuses its turns" if quoted else str(error)) from None


def _head(tokenizer: PromptTokenizer, turns: Sequence[Turn]) -> str:
    return tokenizer.render_chat([turn.message for turn in turns], add_generation_prompt=True)


def _find_reply(text: str, head: str, block: tuple[int, int] | None, n: int, said: str, closing: str) -> _Reply:
    """said: the reply without blanks around it. BadRecord tells which property of the template is in the way."""
    which = _which(n)
    if not said:
        raise BadRecord(f"{which}its targets are empty")
    if block is None and not text.startswith(head):
        raise BadRecord(
            f"{which}the chat template renders a conversation with its reply differently from the prompt alone, so "
            "the model would be trained on another prompt than it is given"
        )
    if block is not None and text.startswith(head) and block[0] != len(head):
        side = "before" if block[0] < len(head) else "after"
        raise BadRecord(f"{which}the chat template's generation block begins {side} the end of the reply's header")
    start, end = block or (len(head), len(text))
    reply = text[start:end].lstrip()
    if not reply.startswith(said):
        if said in reply:
            raise BadRecord(f"{which}the chat template puts text of its own before the reply, after its prompt")
        raise BadRecord(f"{which}{_REWRITES}")
    rest = reply[len(said) :].lstrip()
    if not rest.startswith(closing):
        if block is not None:
            raise BadRecord(f"{which}the chat template's generation block ends before {closing!r} closes the turn")
        raise BadRecord(f"{which}the chat template does not close the turn with {closing!r}, as it does a last one")
    rest = rest[len(closing) :]
    if block is not None and rest.strip():
        raise BadRecord(f"{which}the chat template's generation block goes on after {closing!r} has closed the turn")
    return _Reply(n, start, end - len(rest))


# In tokens


def _encode(tokenizer: PromptTokenizer, text: str, cuts: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """(ids, for each where in the text it ends, for each cut the number of tokens before it).

    The text is encoded as a whole where the tokens before a cut are then the ones of the text before it. Else (a token
    straddles the cut, or line breaks beside it are merged otherwise) its two sides are encoded by themselves.
    """
    whole, ends = tokenizer.encode_ends(text)
    ids, id_ends, before, base = list[int](), list[int](), list[int](), 0
    rest = whole
    for cut in cuts:
        prompt = tokenizer.encode(text[base:cut])
        if rest[: len(prompt)] != prompt:
            prompt, prompt_ends = tokenizer.encode_ends(text[base:cut])
            ids, id_ends = ids + prompt, id_ends + [base + end for end in prompt_ends]
            base = cut
            rest, ends = tokenizer.encode_ends(text[base:])
            prompt = []
        before.append(len(ids) + len(prompt))
    ids, id_ends = ids + rest, id_ends + [base + end for end in ends]
    if base and tokenizer.spell(ids) != tokenizer.spell(whole):
        raise BadRecord("its tokens straddle the beginning of a reply, and this tokenizer's text can't be cut there")
    return ids, id_ends, before


def _last_token(ids: Sequence[int], ends: Sequence[int], start: int, reply: _Reply, closing: _Closing) -> int:
    """The token that ends a reply's span. BadRecord if that is no closing token, or the template's stand before it."""
    last = bisect.bisect_left(ends, reply.end, lo=start)
    if last == len(ids) or ends[last] != reply.end or ids[last] != closing.id:
        raise BadRecord(f"{_which(reply.turn)}its last token is not {closing.text!r}")
    if not closing.around.isdisjoint(ids[start:last]):
        raise BadRecord(
            f"{_which(reply.turn)}EOS stands inside its targets, where generation would stop, or another token "
            "that the chat template puts around turns"
        )
    return last


def _context(
    tokenizer: PromptTokenizer,
    text: str,
    turns: Sequence[Turn],
    between: tuple[int, int],
    ids: Sequence[int],
    ends: Sequence[int],
    tokens: tuple[int, int],
) -> list[Span]:
    """Spans of the turns `between` two replies, divided where the template shows where each ends."""
    (first, stop), (start, end) = between, tokens
    spans = []
    for n in range(first, stop - 1):
        try:
            earlier = tokenizer.render_chat([turn.message for turn in turns[: n + 1]], add_generation_prompt=False)
        except UserError:  # it refuses a conversation that ends here; roles are for people, so the two share a span
            continue
        middle = bisect.bisect_right(ends, len(earlier))
        if text.startswith(earlier) and start < middle < end:
            spans.append(_span(turns[n].role, ids[start:middle]))
            start = middle
    if start < end:
        spans.append(_span(turns[stop - 1].role if stop > first else ASSISTANT, ids[start:end]))
    return spans


def _span(role: str, ids: Sequence[int], *, supervised: bool = False) -> Span:
    return Span(role=role, supervised=supervised, ids=np.array(ids, np.int32))
