"""How an example's text becomes spans of tokens. The same rendering serves training, evaluation and generation.

    plain   [inputs "\\n"] [targets EOS], behind BOS where the tokenizer begins every text with it
    seq2seq [inputs EOS] [targets EOS], of an encoder-decoder
    chat    [the tokenizer's own template around the inputs, up to where the reply begins] [targets, end of turn]
    continued [inputs] [" targets" EOS]: a text that goes on, such as "Answer:" and " B", for questions alone

and of a conversation, with each of its replies that is to be learnt:

    plain   ["User: 2+2?\\n\\nAssistant:" "\\n"] [4 EOS] ["\\n\\nUser: 3+3?\\n\\nAssistant:" "\\n"] [6 EOS]
    chat    [system] [user, reply's header] [4, end of turn] [user, reply's header] [6, end of turn]

Only replies are supervised, and each ends with the token at which generation stops. Imports neither SeqIO nor JAX.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from itune.data.chat import PromptTokenizer, chat_prompt, chat_spans, end_of_turn
from itune.data.config import PROMPT_FORMATS
from itune.data.records import Span
from itune.data.tokenizer import Tokenizer
from itune.data.turns import ASSISTANT, SYSTEM, USER, BadRecord, Turn, layout
from itune.errors import UserError, nearest


def render_prompt(tokenizer: PromptTokenizer, text: str, prompt_format: str) -> list[int]:
    """The token ids that a model sees before it replies to `text`.

    Raises UserError for an unknown format, or "chat" with a tokenizer that has no chat template.
    """
    return render_turns_prompt(tokenizer, (Turn(role=USER, text=text),), prompt_format)


def render_turns_prompt(tokenizer: PromptTokenizer, turns: Sequence[Turn], prompt_format: str) -> list[int]:
    """The token ids that a model sees before it replies after these turns. Raises as `render_prompt`."""
    if _is_chat(prompt_format):
        return chat_prompt(tokenizer, turns)
    parts = [*_plain_parts(tokenizer, [*turns, Turn(role=ASSISTANT, text="")], _separator(tokenizer, prompt_format))]
    return [*tokenizer.prefix, *(i for prompt, reply in parts for i in (*prompt, *reply))][:-1]


def render_spans(
    tokenizer: PromptTokenizer,
    prompt_format: str,
    *,
    inputs: Sequence[int],
    targets: Sequence[int],
    inputs_text: str,
    targets_text: str,
    turns: Sequence[Turn] = (),
) -> tuple[Span, ...]:
    """The spans of a conversation's `turns`; or, without them, a task's features as one question and its reply.

    Plain prompts and replies keep the pipeline's ids; a chat template is rendered as text and tokenised whole. Whether
    or not the pipeline appended EOS, here it stands once, at the end of each reply.
    Raises BadRecord if no target is left to learn, UserError if the chat template can't be trained on.
    """
    chat = _is_chat(prompt_format)
    if not turns:
        reply = _without_eos(targets, tokenizer.eos_id)
        if not reply:
            raise BadRecord("its targets are empty")
        if not chat:
            prompt = _without_eos(inputs, tokenizer.eos_id) + _separator(tokenizer, prompt_format)
            if prompt_format == "continued":
                reply = _continuation(tokenizer, inputs_text, targets_text)
            return _plain_spans(tokenizer, [(prompt, [*reply, tokenizer.eos_id])])
        turns = (Turn(role=USER, text=inputs_text), Turn(role=ASSISTANT, text=targets_text))
    if chat:
        return chat_spans(tokenizer, turns)
    if prompt_format == "continued":
        raise UserError("prompt_format='continued' is for questions with an answer, and this is a conversation")
    return _plain_spans(tokenizer, [*_plain_parts(tokenizer, turns, _separator(tokenizer, prompt_format))])


def stop_id(tokenizer: PromptTokenizer, prompt_format: str) -> int:
    """The token that ends each reply in this format, and so generation: EOS, or what closes a chat template's turn."""
    return end_of_turn(tokenizer) if _is_chat(prompt_format) else tokenizer.eos_id


def stop_ids(tokenizer: Tokenizer, prompt_format: str) -> tuple[int, ...]:
    """Where generation stops: `stop_id` first, then whatever else the model's owners declare to end a reply."""
    return tuple(dict.fromkeys([stop_id(tokenizer, prompt_format), *tokenizer.end_ids]))


def _is_chat(prompt_format: str) -> bool:
    if prompt_format not in PROMPT_FORMATS:
        hint = nearest(prompt_format, PROMPT_FORMATS)
        raise UserError(f"prompt_format={prompt_format!r} must be one of {', '.join(PROMPT_FORMATS)}.{hint}")
    return prompt_format == "chat"


def _separator(tokenizer: PromptTokenizer, prompt_format: str) -> list[int]:
    """What ends a prompt. One token, so that a prompt that is cut keeps it; none before a reply that goes on."""
    if prompt_format == "continued":
        return []
    return [tokenizer.eos_id] if prompt_format == "seq2seq" else tokenizer.encode("\n")


def _continuation(tokenizer: PromptTokenizer, inputs_text: str, targets_text: str) -> list[int]:
    """The ids of a blank and the targets, behind the inputs: a tokenizer may mark where a text begins."""
    whole = tokenizer.encode(f"{inputs_text} {targets_text.lstrip()}")
    return whole[len(tokenizer.encode(inputs_text)) :]


def _plain_parts(
    tokenizer: PromptTokenizer, turns: Sequence[Turn], separator: list[int]
) -> Iterator[tuple[list[int], list[int]]]:
    """(ids of what stands before it, its own with EOS) of each learnt reply. Other replies are text of the former."""
    learnt = [n for n, turn in enumerate(turns) if turn.learnt]
    said = sum(1 for _ in itertools.dropwhile(lambda t: t.role == SYSTEM, turns[: max(learnt, default=0)]))
    first = 0
    for n in learnt:
        text = ("\n\n" if first else "") + layout(turns[first:n], labelled=said > 1, opening=not first)
        yield tokenizer.encode(text) + separator, [*tokenizer.encode(turns[n].text), tokenizer.eos_id]
        first = n + 1


def _plain_spans(tokenizer: PromptTokenizer, parts: Sequence[tuple[list[int], list[int]]]) -> tuple[Span, ...]:
    spans = []
    for prompt, reply in parts:
        if len(reply) == 1:
            raise BadRecord("its targets are empty")
        if tokenizer.eos_id in reply[:-1]:
            raise BadRecord("EOS stands inside its targets, where generation would stop")
        spans.append(Span(role="inputs", supervised=False, ids=np.array(prompt, np.int32)))
        spans.append(Span(role="targets", supervised=True, ids=np.array(reply, np.int32)))
    if not spans:
        raise BadRecord("no reply in it is to be learnt")
    if tokenizer.prefix:
        spans.insert(0, Span(role="bos", supervised=False, ids=np.array(tokenizer.prefix, np.int32)))
    return tuple(spans)


def _without_eos(ids: Sequence[int], eos_id: int) -> list[int]:
    """[5, 6, eos, eos] -> [5, 6]"""
    kept = [int(i) for i in ids]
    while kept and kept[-1] == eos_id:
        kept.pop()
    return kept
