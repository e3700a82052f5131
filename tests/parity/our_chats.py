"""Our spans of the conversations in chats.py beside transformers' ids and assistant masks. Without torch or JAX."""

from __future__ import annotations

import collections
import tempfile
from pathlib import Path

from itune.data.chat import chat_prompt, chat_spans
from itune.data.tokenizer import Tokenizer
from itune.data.turns import BadRecord, Turn
from tests.parity import chats

Messages = list[dict[str, str]]


def differences(
    base: Path, conversations: list[Messages], references: dict
) -> tuple[collections.Counter[str], list[str]]:
    """({"equal": n, "refused": n, ...} over styles, each with and without generation blocks; the differences).

    "cut": our ids differ because a reply's prompt alone has other tokens than in the whole, and spell the same.
    """
    counts: collections.Counter[str] = collections.Counter()
    faults = []
    for name, style in chats.STYLES.items():
        for template in (style.template, style.plain):
            with tempfile.TemporaryDirectory() as scratch:
                tokenizer = Tokenizer.from_folder(chats.write_folder(Path(scratch), base, style, template))
            for n, (messages, reference) in enumerate(zip(conversations, references[name], strict=True)):
                verdict = _verdict(tokenizer, messages, reference)
                counts[verdict] += 1
                if verdict not in ("equal", "refused", "cut"):
                    faults.append(f"{name}, conversation {n}: {verdict}")
    return counts, faults


def _verdict(tokenizer: Tokenizer, messages: Messages, reference: dict | None) -> str:
    turns = [Turn(role=m["role"], text=m["content"]) for m in messages]
    try:
        spans = chat_spans(tokenizer, turns)
    except BadRecord as error:
        return "refused" if reference is None else str(error)
    if reference is None:
        return "transformers refuses it"
    ids = [int(i) for span in spans for i in span.ids]
    mask = "".join(str(int(span.supervised)) * len(span.ids) for span in spans)
    before = [int(i) for span in spans[:-1] for i in span.ids]
    if chat_prompt(tokenizer, turns[:-1]) != before:
        return "generation would be given another prompt"
    theirs = reference["ids"]
    if ids != theirs[: len(ids)]:
        alone = tokenizer.encode(tokenizer.render_chat(messages[:-1], add_generation_prompt=True))
        same_text = tokenizer.spell(theirs).startswith(tokenizer.spell(ids))
        return "cut" if same_text and alone != theirs[: len(alone)] else "other ids"
    if mask + "0" * (len(theirs) - len(ids)) != reference["mask"]:
        return "another mask"
    if tokenizer.spell(theirs[len(ids) :]).strip():
        return "text after the last reply is lost"
    return "equal"
