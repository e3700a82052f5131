"""A conversation's turns, and the JSON text in which they travel through a SeqIO pipeline. Pure Python."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
ROLES = (SYSTEM, USER, ASSISTANT)

# A text feature of this name (or a field of a row) makes an example a conversation: its spans come from these turns,
# and not from "inputs" and "targets", which then serve metrics and reports.
TURNS_FEATURE = "turns_json"


class BadRecord(Exception):
    """This example can't become a record. The caller names task, split and id; the message holds no example text."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Turn:
    """role: one of ROLES.  id: an Open Assistant message's, or "".  trained: whether the assistant's turn is learnt."""

    role: str
    text: str
    id: str = ""
    trained: bool = True

    @property
    def learnt(self) -> bool:
        return self.role == ASSISTANT and self.trained

    @property
    def message(self) -> dict[str, str]:
        """As chat templates take it."""
        return {"role": self.role, "content": self.text}


def layout(turns: Sequence[Turn], *, labelled: bool | None = None, opening: bool = True) -> str:
    """The text of the turns before a reply: system text, then what was said.

    One user turn stands as it is, as in a prompt/completion file:
        "Be brief.\\n\\nWhat is 2+2?"
    More turns are named, and the last line asks for the next:
        "Be brief.\\n\\nUser: What is 2+2?\\n\\nAssistant: 4\\n\\nUser: And 3+3?\\n\\nAssistant:"

    labelled: whether turns are named, rather than by their number.  opening: the conversation begins here; if not,
    system text is named like any turn.
    """
    head = [*itertools.takewhile(lambda turn: turn.role == SYSTEM, turns)] if opening else []
    said = turns[len(head) :]
    if len(said) > 1 if labelled is None else labelled:
        parts = [f"{turn.role.capitalize()}: {turn.text}" for turn in said] + [f"{ASSISTANT.capitalize()}:"]
    else:
        parts = [turn.text for turn in said]
    return "\n\n".join([*(turn.text for turn in head if turn.text), *parts])


def write_turns(turns: Sequence[Turn]) -> str:
    """OpenAI messages: '[{"role": "user", "content": "2+2?"}, ...]', "weight": 0 on replies that are context only."""
    untrained = {"weight": 0}
    messages = [t.message | (untrained if t.role == ASSISTANT and not t.trained else {}) for t in turns]
    return json.dumps(messages, ensure_ascii=False)


def read_turns(text: str) -> tuple[Turn, ...]:
    """The inverse of `write_turns`, but for ids. BadRecord for anything that is no list of messages."""
    try:
        messages = json.loads(text)
    except ValueError:
        raise BadRecord(f"its {TURNS_FEATURE} is not JSON") from None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise BadRecord(f"its {TURNS_FEATURE} is no list of messages")
    turns = []
    for number, message in enumerate(messages, 1):
        role, content = message.get("role"), message.get("content")
        if role not in ROLES or not isinstance(content, str):
            raise BadRecord(
                f"its {TURNS_FEATURE}, message {number}: needs a 'role' ({', '.join(ROLES)}) and a 'content' of text"
            )
        turns.append(Turn(role=role, text=content, trained=message.get("weight") != 0))
    return tuple(turns)
