"""Faults of a prepared mixture that a loss curve would not show.

truncated   more than a fifth of a task's examples are cut, or dropped for their length
no-prompt   a task learns every token: nothing of it is a prompt
no-answer   examples whose answer is nothing but EOS
eos         an answer that doesn't end in EOS, or what ends a chat's turn: the model would not learn to stop
header      an answer that holds what a chat template puts around turns, or EOS before its end
unknown     the vocabulary has no token for part of the text
lossy       tokens that don't spell the text they were made from (braces, newlines, capitals lost)
prompt      what generation would feed for the same text is not what was trained on
exemplar    a prompt that shows its own question twice, and the answer: an exemplar is the query
duplicate   examples of a task that are the same, token for token
conflict    one prompt with different answers
leak        an evaluation example that is trained on, token for token
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from itune.data.chat import template_ids
from itune.data.feed import Reader
from itune.data.manifest import Manifest
from itune.data.packing import Limits, fit
from itune.data.plan_tasks import PlanTask
from itune.data.prompt import render_prompt, render_turns_prompt, stop_id
from itune.data.records import Record
from itune.data.schedule import Plan
from itune.data.tokenizer import Tokenizer
from itune.data.turns import TURNS_FEATURE, read_turns
from itune.errors import UserError

MOST_CUT = 0.2
MOST_RARE = 0.01  # of a task's tokens or examples: below that, an oddity of the data rather than a fault of the set-up
SHORTEST_QUERY = 20  # characters: shorter text stands in a prompt twice by chance
NAMED = 3  # ids that a finding names
QUICK_RECORDS, QUICK_PER_TASK = 20_000, 64
ERRORS = ("no-prompt", "eos", "header", "leak")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """level: "error" or "warning".  share: of the examples looked at.  ids: the first few of them."""

    check: str
    level: str
    task: str
    message: str
    share: float
    ids: tuple[str, ...] = ()

    def __str__(self) -> str:
        ids = f" ({', '.join(self.ids)}{', ...' if len(self.ids) == NAMED else ''})" if self.ids else ""
        return f"{self.level}: {self.task}: {self.check}: {self.message}{ids}"


class _Tally:
    """Counts what is wrong with one task's records, and keeps the first ids."""

    def __init__(self, task: str):
        self.task, self.looked_at = task, 0
        self._counts: collections.Counter[str] = collections.Counter()
        self._ids: dict[str, list[str]] = collections.defaultdict(list)

    def add(self, check: str, name: str) -> None:
        self._counts[check] += 1
        if len(self._ids[check]) < NAMED:
            self._ids[check].append(name)

    def finding(self, check: str, says: str, *, least: float = 0.0) -> Iterator[Finding]:
        share = self._counts[check] / max(self.looked_at, 1)
        if self._counts[check] and share >= least:
            yield Finding(
                check=check,
                level="error" if check in ERRORS else "warning",
                task=self.task,
                message=f"{self._counts[check]:,} of {self.looked_at:,} examples {says}",
                share=share,
                ids=tuple(self._ids[check]),
            )


def lint(manifest: Manifest, plan: Plan, reader: Reader, tokenizer: Tokenizer, *, quick: bool = False) -> list[Finding]:
    """What is wrong with the tasks that a plan trains on; errors first, then in the mixture's order.

    quick: lengths of all examples, but only some records of each task, and no leaks. The trainer looks this closely.
    """
    findings: list[Finding] = []
    trained: dict[bytes, str] = {}
    for number, task in enumerate(plan.tasks):
        findings += _lengths(task, plan.limits)
        chosen = _choose(task, len(plan.tasks) if quick else 0)
        records = (reader.record(number, r) for r in chosen)
        findings += _records(task.name, records, tokenizer, manifest.request["prompt_format"], trained, whole=not quick)
    if not quick:
        for prepared in (*manifest.held_in, *manifest.held_out):
            findings += _leaks(PlanTask.from_manifest(prepared, manifest.request["eval_split"]), trained)
    return sorted(findings, key=lambda f: f.level != "error")


def stop_on_errors(findings: Iterable[Finding]) -> None:
    """Raises UserError for the first error among them."""
    for finding in findings:
        if finding.level == "error":
            raise UserError(f"{finding}; python -m itune.lint tells more")


def _choose(task: PlanTask, tasks: int) -> Sequence[int]:
    """Records of variant 0: all of them, or (of so many tasks) a few, evenly spaced."""
    n = task.num_examples
    most = n if not tasks else min(n, QUICK_PER_TASK, max(1, QUICK_RECORDS // tasks))
    return (np.unique(np.linspace(0, n - 1, most).astype(np.int64)) * task.variants).tolist()


def _lengths(task: PlanTask, limits: Limits) -> Iterator[Finding]:
    """From the index alone, so for all records."""
    index = task.index
    fitted = fit(index.inputs, index.targets, np.full(len(index.inputs), task.overlong == "drop"), limits)
    for what, which in (("cut", fitted.cut_inputs | fitted.cut_targets), ("dropped", fitted.dropped)):
        share = float(which.mean())
        if share > MOST_CUT:
            message = (
                f"{share:.0%} of the examples are {what}: half of them have more than "
                f"{int(np.median(index.inputs[which]))} + {int(np.median(index.targets[which]))} tokens"
            )
            yield Finding(check="truncated", level="warning", task=task.name, message=message, share=share)
    if not index.inputs.any():
        message = "every token is learnt; nothing is a prompt"
        yield Finding(check="no-prompt", level="error", task=task.name, message=message, share=1.0)


def _records(
    name: str,
    records: Iterable[Record],
    tokenizer: Tokenizer,
    prompt_format: str,
    trained: dict[bytes, str],
    *,
    whole: bool,
) -> Iterator[Finding]:
    tally, seen, answers = _Tally(name), set[bytes](), dict[bytes, bytes]()
    tokens = unknown = 0
    stop = stop_id(tokenizer, prompt_format)
    around = [*(template_ids(tokenizer) if prompt_format == "chat" else ()), tokenizer.eos_id]
    for record in records:
        tally.looked_at += 1
        prompt, answer = _ids(record, supervised=False), _ids(record, supervised=True)
        replies = [span.ids for span in record.spans if span.supervised]
        if not replies or any(not len(ids) or ids[-1] != stop for ids in replies):
            tally.add("eos", record.id)
        elif any(len(ids) == 1 for ids in replies):
            tally.add("no-answer", record.id)
        if any(np.isin(ids[:-1], around).any() for ids in replies):
            tally.add("header", record.id)
        if tokenizer.unk_id is not None:
            tokens += len(prompt) + len(answer)
            unknown += int((prompt == tokenizer.unk_id).sum() + (answer == tokenizer.unk_id).sum())
        if not all(_spelt(tokenizer, text) for text in (record.inputs_text, record.targets_text)):
            tally.add("lossy", record.id)
        if record.inputs_text and _before_last_reply(record) != _asked(record, tokenizer, prompt_format):
            tally.add("prompt", record.id)
        if _shows_itself(record):
            tally.add("exemplar", record.id)
        asked, both = _digest(prompt), _digest(prompt, answer)
        if both in seen:
            tally.add("duplicate", record.id)
        elif answers.setdefault(asked, both) != both:
            tally.add("conflict", record.id)
        seen.add(both)
        if whole:
            trained.setdefault(both, f"{name} {record.id}")
    yield from tally.finding("eos", "have an answer that does not end in EOS")
    yield from tally.finding("header", "have an answer that holds a token from around turns: a header, or EOS")
    yield from tally.finding("no-answer", "have an empty answer")
    if unknown > MOST_RARE * tokens:
        message = f"{unknown / tokens:.1%} of the tokens are unknown to the vocabulary"
        yield Finding(check="unknown", level="warning", task=name, message=message, share=unknown / tokens)
    yield from tally.finding("lossy", "have tokens that do not spell their text", least=MOST_RARE)
    yield from tally.finding("prompt", "would be prompted otherwise than they were trained", least=MOST_RARE)
    yield from tally.finding("exemplar", "hold their own question and answer among their exemplars")
    yield from tally.finding("duplicate", "are the same as an earlier one", least=MOST_RARE)
    yield from tally.finding("conflict", "have another answer to the prompt of an earlier one", least=MOST_RARE)


def _leaks(task: PlanTask, trained: dict[bytes, str]) -> Iterator[Finding]:
    tally, reader = _Tally(task.name), Reader([task])
    for r in _choose(task, 0):
        record = reader.record(0, r)
        tally.looked_at += 1
        twin = trained.get(_digest(_ids(record, supervised=False), _ids(record, supervised=True)))
        if twin is not None:
            tally.add("leak", f"{record.id} is {twin}")
    yield from tally.finding("leak", "are evaluated and trained on")


def _before_last_reply(record: Record) -> list[int]:
    last = max((n for n, span in enumerate(record.spans) if span.supervised), default=len(record.spans))
    return [int(i) for span in record.spans[:last] for i in span.ids]


def _asked(record: Record, tokenizer: Tokenizer, prompt_format: str) -> list[int]:
    """What generation would be given for the record's texts, or for its turns before the last that it learns."""
    if TURNS_FEATURE not in record.extras:
        return render_prompt(tokenizer, record.inputs_text, prompt_format)
    turns = read_turns(record.extras[TURNS_FEATURE])
    return render_turns_prompt(tokenizer, turns[: max(n for n, t in enumerate(turns) if t.learnt)], prompt_format)


def _ids(record: Record, *, supervised: bool) -> np.ndarray:
    spans = [span.ids for span in record.spans if span.supervised == supervised]
    return np.concatenate(spans) if spans else np.zeros(0, np.int32)


def _digest(*arrays: Any) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(np.ascontiguousarray(array, "<i4").tobytes() + b"\xff")
    return digest.digest()


def _shows_itself(record: Record) -> bool:
    """Whether the longest source field that the prompt shows stands in it twice, and the answer beside it."""
    prompt, answer = record.inputs_text, record.targets_text.strip()
    shown = [text.strip() for text in record.extras.values() if len(text.strip()) >= SHORTEST_QUERY]
    query = max((text for text in shown if text in prompt and text != answer), key=len, default="")
    return bool(query and answer) and prompt.count(query) > 1 and answer in prompt.replace(query, "")


def _spelt(tokenizer: Tokenizer, text: str) -> bool:
    """But for white space at the ends."""
    return tokenizer.spell(tokenizer.encode(text)).strip() == text.strip()
