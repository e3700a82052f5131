"""What `python -m itune.generate` does once a model is loaded: completions of many prompts, or a conversation."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence

from itune.errors import UserError
from itune.inference.config import MAX_SEED, SamplingConfig
from itune.inference.generate import Generator
from itune.inference.prompts import Prompt
from itune.inference.request import Request
from itune.inference.session import Session

BATCHES_AT_ONCE = 16  # prompts are sorted by length among so many batches: output flows, and like lengths still meet
QUIT = "/quit"


def complete(sessions: Sequence[Session], prompts: Sequence[Prompt], *, batch_size: int, output_format: str) -> None:
    """Prints each prompt's completion, in order, by one model or by several side by side.

    json: {"prompt", "completion", "tokens" (their number)} a line; of several models a list a line, with "model" too.
    Raises: UserError naming the prompt that is too long, before anything is generated.
    """
    asked = [_requests(session, prompts, session.generator(batch_size)) for session in sessions]
    at_once = batch_size * BATCHES_AT_ONCE
    for start in range(0, len(prompts), at_once):
        chosen = slice(start, start + at_once)
        found = [
            generator.complete(requests[chosen], session.stop_ids, decode=session.tokenizer.decode)
            for session, (generator, requests) in zip(sessions, asked, strict=True)
        ]
        for prompt, *completions in zip(prompts[chosen], *found, strict=True):
            named = [
                (s.name, (c.text or "").strip(), len(c.tokens)) for s, c in zip(sessions, completions, strict=True)
            ]
            print(_shown(prompt, named, output_format, alone=len(prompts) == 1), flush=True)


def _requests(session: Session, prompts: Sequence[Prompt], generator: Generator) -> tuple[Generator, list[Request]]:
    requests = [Request(ids=session.encode(prompt.text), settings=prompt.settings) for prompt in prompts]
    for prompt, request in zip(prompts, requests, strict=True):
        generator.check(f"{prompt.where}: the prompt", request)
    return generator, requests


def _shown(prompt: Prompt, found: Sequence[tuple[str, str, int]], output_format: str, *, alone: bool) -> str:
    """found: (model's name, completion, its number of tokens) each."""
    if output_format == "json":
        lines = [{"prompt": prompt.text, "completion": text, "tokens": n} for _, text, n in found]
        if len(found) == 1:
            return json.dumps(lines[0], ensure_ascii=False)
        named = [{"model": name, **line} for (name, *_), line in zip(found, lines, strict=True)]
        return json.dumps(named, ensure_ascii=False)
    texts = [text if len(found) == 1 else f"[{name}]\n{text}" for name, text, _ in found]
    return "\n".join(texts) if alone else "\n".join([f"> {prompt.text}", *texts, ""])


class Conversation:
    """In the chat format the model sees all that was said; in the plain one every line stands for itself."""

    def __init__(self, session: Session, settings: SamplingConfig, note: Callable[[str], None]):
        """settings: of the first reply; each further one has the next seed.
        note: takes a line for the user, such as that the beginning was forgotten."""
        self.session, self.settings, self.note = session, settings, note
        self.messages: list[dict[str, str]] = []
        self._generator = session.generator(1)

    def reply(self, text: str) -> str:
        """The model's answer. Raises UserError if even `text` alone is too long; then it was not said."""
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
        return len(self._encode(messages)) + self.settings.max_new_tokens <= self._generator.max_length

    def _generate(self, ids: list[int]) -> str:
        seed = (self.settings.seed + len(self.messages) // 2) % (MAX_SEED + 1)
        request = Request(ids=ids, settings=self.settings.updated({"seed": seed}))
        self._generator.check("the prompt", request)
        decode = self.session.tokenizer.decode
        return (self._generator.complete([request], self.session.stop_ids, decode=decode)[0].text or "").strip()


def converse(session: Session, settings: SamplingConfig) -> None:
    """Answers standard input line by line, until /quit or its end. On a terminal an error leaves the talk open."""
    interactive = sys.stdin.isatty()
    note = lambda line: print(line, file=sys.stderr, flush=True)  # noqa: E731
    talk = Conversation(session, settings, note)
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
