"""How an example's text becomes spans of tokens. The same rendering serves training, evaluation and generation.

    plain   [inputs "\\n"] [targets EOS]
    chat    [the tokenizer's own template around the inputs, up to where the reply begins] [targets EOS]

Only the second span is supervised, and it always ends with EOS. Imports neither SeqIO nor JAX.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from itune.data.config import PROMPT_FORMATS
from itune.data.records import Span
from itune.errors import UserError, nearest


class PromptTokenizer(Protocol):
    """What rendering needs of `itune.data.tokenizer.Tokenizer`."""

    @property
    def eos_id(self) -> int: ...
    @property
    def chat_template(self) -> str | None: ...
    def encode(self, text: str) -> list[int]: ...
    def render_chat(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str: ...


class BadRecord(Exception):
    """This example can't become a record. The caller names task, split and id; the message holds no example text."""


def render_prompt(tokenizer: PromptTokenizer, text: str, prompt_format: str) -> list[int]:
    """The token ids that a model sees before it replies to `text`.

    Raises UserError for an unknown format, or "chat" with a tokenizer that has no chat template.
    """
    if prompt_format == "plain":
        return tokenizer.encode(text) + tokenizer.encode("\n")
    return tokenizer.encode(_chat_prompt(tokenizer, text, prompt_format))


def render_spans(
    tokenizer: PromptTokenizer,
    prompt_format: str,
    *,
    inputs: Sequence[int],
    targets: Sequence[int],
    inputs_text: str,
    targets_text: str,
) -> tuple[Span, Span]:
    """The prompt's span and the reply's, from a task's tokenised features and their texts.

    Plain prompts keep the pipeline's `inputs` ids; a chat template is rendered as text and tokenised whole. Whether or
    not the pipeline appended EOS, here it stands once, at the end of the targets.
    Raises BadRecord if no target is left to learn, UserError if the chat template can't be trained on.
    """
    reply = _without_eos(targets, tokenizer.eos_id)
    if not reply:
        raise BadRecord("its targets are empty")
    if tokenizer.eos_id in reply:
        raise BadRecord("EOS stands inside its targets, where generation would stop")
    if prompt_format == "plain":
        roles = ("inputs", "targets")
        prompt = _without_eos(inputs, tokenizer.eos_id) + tokenizer.encode("\n")
    else:
        roles = ("user", "assistant")
        text = _chat_prompt(tokenizer, inputs_text, prompt_format)
        _check_prefix(tokenizer, text, inputs_text, targets_text)
        prompt = tokenizer.encode(text)
    return (
        Span(role=roles[0], supervised=False, ids=np.array(prompt, np.int32)),
        Span(role=roles[1], supervised=True, ids=np.array([*reply, tokenizer.eos_id], np.int32)),
    )


def _without_eos(ids: Sequence[int], eos_id: int) -> list[int]:
    """[5, 6, eos, eos] -> [5, 6]"""
    kept = [int(i) for i in ids]
    while kept and kept[-1] == eos_id:
        kept.pop()
    return kept


def _chat_prompt(tokenizer: PromptTokenizer, text: str, prompt_format: str) -> str:
    if prompt_format != "chat":
        hint = nearest(prompt_format, PROMPT_FORMATS)
        raise UserError(f"prompt_format={prompt_format!r} must be one of {', '.join(PROMPT_FORMATS)}.{hint}")
    if tokenizer.chat_template is None:
        raise UserError("prompt_format='chat', but this model's tokenizer has no chat template; use 'plain'")
    return tokenizer.render_chat([{"role": "user", "content": text}], add_generation_prompt=True)


def _check_prefix(tokenizer: PromptTokenizer, prompt: str, inputs_text: str, targets_text: str) -> None:
    """Training on prompt + reply is right only if the template puts a reply after exactly that prompt."""
    turns = [{"role": "user", "content": inputs_text}, {"role": "assistant", "content": targets_text}]
    if not tokenizer.render_chat(turns, add_generation_prompt=False).startswith(prompt):
        raise UserError(
            "prompt_format='chat': this model's chat template renders a conversation with its reply differently from "
            "the prompt alone, so the model would be trained on another prompt than it is given; use 'plain'"
        )
