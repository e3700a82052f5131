"""What `python -m itune.generate` does once a model is loaded: completions of many prompts, or a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence

from itune.errors import UserError
from itune.inference.prompts import Prompt
from itune.inference.session import Session

BATCHES_AT_ONCE = 16  # prompts are sorted by length among so many batches: output flows, and like lengths still meet
QUIT = "/quit"


def complete(
    session: Session, prompts: Sequence[Prompt], *, max_new_tokens: int, batch_size: int, output_format: str
) -> None:
    """Prints each prompt's greedy completion, in order. json: {"prompt", "completion", "tokens" (their number)} a line.

    Raises: UserError naming the prompt that is too long, before anything is generated.
    """
    generator = session.generator(batch_size)
    encoded = [session.encode(prompt.text) for prompt in prompts]
    for prompt, ids in zip(prompts, encoded, strict=True):
        generator.check_length(f"{prompt.where}: the prompt", len(ids), max_new_tokens)
    at_once = batch_size * BATCHES_AT_ONCE
    for start in range(0, len(prompts), at_once):
        chosen = slice(start, start + at_once)
        replies = generator.generate(encoded[chosen], max_new_tokens, session.stop_ids)
        for prompt, ids in zip(prompts[chosen], replies, strict=True):
            text = session.decode(ids)
            if output_format == "json":
                line = {"prompt": prompt.text, "completion": text, "tokens": len(ids)}
                print(json.dumps(line, ensure_ascii=False), flush=True)
            elif len(prompts) == 1:
                print(text, flush=True)
            else:
                print(f"> {prompt.text}\n{text}\n", flush=True)


class Conversation:
    """In the chat format the model sees all that was said; in the plain one every line stands for itself."""

    def __init__(self, session: Session, max_new_tokens: int, note: Callable[[str], None]):
        """note: takes a line for the user, such as that the beginning was forgotten."""
        self.session, self.max_new_tokens, self.note = session, max_new_tokens, note
        self.messages: list[dict[str, str]] = []
        self._generator = session.generator(1)

    def reply(self, text: str) -> str:
        """The model's greedy answer. Raises UserError if even `text` alone is too long; then it was not said."""
        if self.session.prompt_format != "chat":
            return self._generate(self.session.encode(text))
        asked = {"role": "user", "content": text}
        history = list(self.messages)
        while history and not self._fits([*history, asked]):
            history = history[2:]
        answer = self._generate(self._encode([*history, asked]))
        if len(history) < len(self.messages):
            self.note("(the beginning of the conversation no longer fits and is forgotten)")
        self.messages = [*history, asked, {"role": "assistant", "content": answer}]
        return answer

    def _encode(self, messages: list[dict[str, str]]) -> list[int]:
        tokenizer = self.session.tokenizer
        return tokenizer.encode(tokenizer.render_chat(messages, add_generation_prompt=True))

    def _fits(self, messages: list[dict[str, str]]) -> bool:
        return len(self._encode(messages)) + self.max_new_tokens <= self._generator.max_length

    def _generate(self, ids: list[int]) -> str:
        self._generator.check_length("the prompt", len(ids), self.max_new_tokens)
        found = self._generator.generate([ids], self.max_new_tokens, self.session.stop_ids)
        return self.session.decode(found[0])


def converse(session: Session, *, max_new_tokens: int) -> None:
    """Answers standard input line by line, until /quit or its end. On a terminal an error leaves the talk open."""
    interactive = sys.stdin.isatty()
    note = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    talk = Conversation(session, max_new_tokens, note)
    if interactive:
        note(f"{session.name}; {QUIT} ends")
    for line in _lines(interactive):
        if line.strip() == QUIT:
            return
        if not line.strip():
            continue
        try:
            print(talk.reply(line), flush=True)
        except UserError as error:
            if not interactive:
                raise
            note(f"itune: error: {error}")


def _lines(interactive: bool) -> Iterator[str]:
    if not interactive:
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    while True:
        try:
            yield input("> ")
        except EOFError:
            print()
            return
