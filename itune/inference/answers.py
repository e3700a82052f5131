"""What an evaluation harness asks of a model: texts in, log-probabilities and texts out. Does not import lm-eval.

Texts become tokens, and are cut where they are too long, as in lm-eval's own `hf` backend: tests/parity compares both.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from itune.data.prompt import stop_ids
from itune.errors import UserError
from itune.inference.config import FILTERS, GREEDY, MAX_SEED, SamplingConfig
from itune.inference.generate import Generator
from itune.inference.loglikelihood import Pair, Scorer
from itune.inference.request import Request
from itune.inference.session import Session
from itune.models.config import EncoderDecoderConfig

RELATIVE_LENGTH = 2048  # positions of models that have no limit of their own; lm-eval's default
MAX_NEW_TOKENS = 256  # of a task that does not say; lm-eval's default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one given counts


def sampling(kwargs: Mapping[str, Any], max_new_tokens: int = MAX_NEW_TOKENS) -> SamplingConfig:
    """A task's `generation_kwargs`: {"until": ["\\n"], "max_gen_toks": 9, "do_sample": False} -> the settings.

    max_new_tokens: where they don't say. Without do_sample, a temperature above 0 asks for it.
    Raises: UserError for a setting that there is not, and for sampling without a temperature.
    """
    fields = dict(kwargs)
    stop: list[str] = []
    for name in ("until", "stop"):
        given = fields.pop(name, None) or []
        stop += [given] if isinstance(given, str) else given
    lengths = [fields.pop(name, None) for name in LENGTHS]
    fields["max_new_tokens"] = int(next((n for n in lengths if n is not None), max_new_tokens))
    if "num_beams" in fields:
        fields["beams"] = fields.pop("num_beams")
    do_sample = fields.pop("do_sample", None)
    fields["temperature"] = 0.0 if do_sample is False else float(fields.get("temperature") or 0.0)
    if fields["temperature"] == 0.0:
        if do_sample:
            raise UserError("generation_kwargs: do_sample goes with a temperature above 0")
        # Tasks often carry a top_p that greedy decoding ignores.
        fields = {name: value for name, value in fields.items() if name not in FILTERS}
    try:
        return GREEDY.updated({**fields, "stop": [text for text in stop if text]})
    except UserError as error:
        raise UserError(f"generation_kwargs: {error}") from None


class Answers:
    """A session that answers in texts.

    Attributes:
      encoder: whether the model is an encoder-decoder: contexts are for its encoder, continuations for its decoder.
      prefix_id: what stands before a text that has no context: BOS, or EOS where there is none.
      max_length: tokens of a context with its continuation (of an encoder-decoder: of each).
    """

    def __init__(
        self,
        session: Session,
        *,
        batch_size: int = 8,
        max_length: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
    ):
        """max_new_tokens: where a task does not say.  seed: of draws; a request that is repeated has the next seed.

        Raises: UserError for a max_length beyond the model's positions.
        """
        config, tokenizer = session.spec.config, session.tokenizer
        self.session, self.tokenizer = session, tokenizer
        self.encoder = isinstance(config, EncoderDecoderConfig)
        self.prefix_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
        if max_length is not None and not 1 < max_length <= config.max_positions:
            raise UserError(f"max_length={max_length} must be 2 to {config.max_positions}, the model's positions")
        self.max_length = max_length or (RELATIVE_LENGTH if self.encoder else config.max_positions)
        self._max_new_tokens, self._seed = max_new_tokens, seed
        # EOS ends a reply whatever the prompt format is: tasks are rarely prompted in the session's.
        self._stop_ids = tuple(dict.fromkeys([tokenizer.eos_id, *stop_ids(tokenizer, session.prompt_format)]))
        model = (session.spec, session.params, session.compute)
        self._generator = Generator(*model, batch_size=batch_size, prefix_lm=session.prefix_lm)
        self._scorer = Scorer(*model, batch_size=batch_size, max_length=self.max_length, prefix_lm=session.prefix_lm)

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Token ids.

        special: with what the tokenizer puts around every text, BOS before it or an encoder-decoder's EOS behind it.
          None: unless the text already spells the first of it, as a rendered chat does.
        """
        if special is None:
            special = not text.startswith(self.tokenizer.spell([self.prefix_id]))
        ids = self.tokenizer.encode(text)
        if not special:
            return ids
        return [*ids, self.tokenizer.eos_id] if self.encoder else [*self.tokenizer.prefix, *ids]

    def score(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding would write it) of each (context, continuation).

        Too long a context loses its beginning.
        Raises: UserError for a continuation that is empty, which would win every choice, or too long.
        """
        for number, (_, continuation) in enumerate(pairs):
            if not continuation:
                raise UserError(f"request {number}: its continuation has no token of its own")
        return [(scored.logprob, scored.greedy) for scored in self._scorer.score(pairs)]

    def generate(self, requests: Sequence[tuple[str, Mapping[str, Any]]]) -> list[str]:
        """What follows each (context, generation_kwargs), up to the first of its `until`.

        Raises: UserError for settings as `sampling`, or new tokens that leave no room for a context.
        """
        seen: Counter[tuple[Any, ...]] = Counter()
        asked = []
        for context, kwargs in requests:
            settings = sampling(kwargs, self._max_new_tokens)
            ids = self._prompt(context, settings.max_new_tokens)
            key = (context, settings)
            seed = (self._seed + seen[key]) % (MAX_SEED + 1)
            seen[key] += 1
            stop = (*settings.stop, self.tokenizer.spell([self.tokenizer.eos_id]))
            asked.append(Request(ids=ids, settings=dataclasses.replace(settings, seed=seed, stop=stop)))
        # `until` may spell a special token, which the text that is handed back leaves out.
        found = self._generator.complete(asked, self._stop_ids, decode=self.tokenizer.spell)
        texts = []
        for request, completion in zip(asked, found, strict=True):
            text = self.tokenizer.decode(completion.tokens)
            for end in request.settings.stop:
                text = text.partition(end)[0]
            texts.append(text)
        return texts

    def _prompt(self, context: str, max_new_tokens: int) -> list[int]:
        room = self.max_length if self.encoder else self.max_length - max_new_tokens
        if room < 1:
            raise UserError(
                f"max_gen_toks={max_new_tokens} leaves no room for a context in the model's {self.max_length} "
                "positions: the task's generation_kwargs, or max_gen_toks of the model, can say fewer"
            )
        # An encoder-decoder's context ends in EOS, whatever it begins with.
        ids = self.encode(context, special=True if self.encoder else None)
        return ids[-room:] or [self.prefix_id]

    def render(self, messages: Sequence[dict[str, Any]], add_generation_prompt: bool = True) -> str:
        """The chat template's text; without `add_generation_prompt` it ends with the last message's own text.

        A template that refuses system messages gets the others. Raises: UserError where there is no template.
        """
        try:
            text = self.tokenizer.render_chat(messages, add_generation_prompt)
        except UserError:
            others = [message for message in messages if message["role"] != "system"]
            if self.tokenizer.chat_template is None or len(others) == len(messages):
                raise
            text = self.tokenizer.render_chat(others, add_generation_prompt)
        if add_generation_prompt:
            return text
        last = messages[-1]["content"].strip()
        place = text.rfind(last)
        if place < 0:
            raise UserError("the model's chat template rewrites the last message, so that a reply cannot go on in it")
        return text[: place + len(last)]
