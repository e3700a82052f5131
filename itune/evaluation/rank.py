"""Rank classification: the model's answer is the option that it finds likeliest after the prompt.

An example's options are those of its row (a field "options", a JSON list) if its target is one of them; else, where the
targets of its task and template are few, those targets. Scored as they are trained on: in the run's prompt format, the
end of the reply included, so that an option that begins another is no likelier for it; without it where the prompt
format is "continued", as test suites have it. Four ways to compare:

  rank_accuracy                 the log-probability of the whole option
  rank_accuracy_norm            divided by its tokens (Brown et al. 2020)
  rank_accuracy_unconditional   less its log-probability after an empty question (Holtzman et al. 2021)
  rank_accuracy_calibrated      less its mean, as a share, over the task's examples of one template (Zhou et al. 2024);
                                only where examples share their options
"""

from __future__ import annotations

import collections
import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itune.data.intervals import of_sums, summarise
from itune.data.metrics import COUNTS, macro_f1
from itune.data.prompt import render_prompt, render_spans
from itune.data.reader import RecordReader, prompt_ids
from itune.data.records import Record
from itune.data.schedule import Segment
from itune.data.tokenizer import Tokenizer
from itune.data.turns import TURNS_FEATURE, BadRecord
from itune.evaluation.results import RANK_METRICS, finite, write_text
from itune.inference.loglikelihood import Pair, Scorer

OPTIONS = "options"
MOST_OPTIONS = 20  # targets of a template: more are no classes
LOOKED_AT = 2000  # records of a split, for the classes that there are


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ranked:
    """An example's options, in nats. target: the right one's place.  tokens: of each, its end included.
    unconditional: after an empty question.  classes: whether the options are those of all examples of the template.
    prompt: as the model saw it."""

    group: str
    task: str
    id: str
    template: str
    options: tuple[str, ...]
    target: int
    logprob: tuple[float, ...]
    tokens: tuple[int, ...]
    unconditional: tuple[float, ...]
    classes: bool
    prompt: str = ""

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Ranked:
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in raw.items()}
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
    """An example to rank. segment: as it is planned, for its prompt."""

    group: str
    task: str
    segment: Segment
    truncate_side: str


def rank(
    questions: Sequence[Question],
    sizes: Mapping[int, int],
    reader: RecordReader,
    tokenizer: Tokenizer,
    prompt_format: str,
    scorer: Scorer,
    check: Callable[[], None],
) -> tuple[Ranked, ...]:
    """Those of the questions that have options. sizes: the number of records of each task, by its number."""
    classes = {k: classes_of(reader.record(k, r) for r in range(min(n, LOOKED_AT))) for k, n in sizes.items()}
    pairs: list[Pair] = []
    chosen: list[tuple[Question, Record, tuple[str, ...], bool, list[list[int]], str]] = []
    empty = render_prompt(tokenizer, "", prompt_format) or [tokenizer.eos_id]
    for q in questions:
        record = reader.record(q.segment.task, q.segment.record)
        options, shared = options_of(record, classes[q.segment.task])
        replies = [_reply(tokenizer, prompt_format, option) for option in options]
        if len(options) < 2 or not all(replies):
            continue
        prompt = prompt_ids(record, q.segment, q.truncate_side)
        pairs += [(context, reply) for context in (prompt, empty) for reply in replies]
        chosen.append((q, record, options, shared, replies, tokenizer.decode(prompt)))
    scores = iter(scorer.score(pairs, check=check))
    found = []
    for q, record, options, shared, replies, prompt_text in chosen:
        given, alone = ([next(scores).logprob for _ in options] for _ in range(2))
        found.append(
            Ranked(
                group=q.group,
                task=q.task,
                id=record.id,
                template=record.template,
                options=options,
                target=options.index(record.targets_text),
                logprob=tuple(given),
                tokens=tuple(map(len, replies)),
                unconditional=tuple(alone),
                classes=shared,
                prompt=prompt_text,
            )
        )
    return tuple(found)


def classes_of(records: Iterable[Record]) -> dict[str, tuple[str, ...]]:
    """{template: its targets}, of templates whose targets are few."""
    targets: dict[str, dict[str, None]] = collections.defaultdict(dict)
    for record in records:
        if len(targets[record.template]) <= MOST_OPTIONS:
            targets[record.template][record.targets_text] = None
    return {t: tuple(sorted(found)) for t, found in targets.items() if 2 <= len(found) <= MOST_OPTIONS}


def options_of(record: Record, classes: Mapping[str, tuple[str, ...]]) -> tuple[tuple[str, ...], bool]:
    """(options, whether they are the template's classes); () where the example has none, or they are not known.

    A row that lists options which its target does not name (it says "B", say) is not ranked: which words the template
    made of the others is not known.
    """
    if TURNS_FEATURE in record.extras:
        return (), False
    if OPTIONS in record.extras:
        own = _listed(record.extras[OPTIONS])
        if own:
            return (own, False) if record.targets_text in own else ((), False)
    found = classes.get(record.template, ())
    return (found, True) if record.targets_text in found else ((), False)


def _listed(text: str) -> tuple[str, ...]:
    try:
        found = json.loads(text)
    except ValueError:
        return ()
    if not isinstance(found, list):
        return ()
    return tuple(dict.fromkeys(option for option in found if isinstance(option, str) and option))


def _reply(tokenizer: Tokenizer, prompt_format: str, text: str) -> list[int]:
    """The supervised tokens of an example with this target; [] if it can't be one. Of "continued", without the end."""
    try:
        spans = render_spans(
            tokenizer,
            prompt_format,
            inputs=tokenizer.encode("?"),
            targets=tokenizer.encode(text),
            inputs_text="?",
            targets_text=text,
        )
    except BadRecord:
        return []
    ids = [int(i) for span in spans if span.supervised for i in span.ids]
    return ids[:-1] if prompt_format == "continued" else ids


def rank_metrics(ranked: Sequence[Ranked]) -> dict[str, float]:
    """Of one task, 0..100, with intervals over examples; rank_chance is what guessing gets."""
    if not ranked:
        return {}
    adjusted = _calibrated(ranked)
    by_way: list[Sequence[np.ndarray | None]] = [
        [np.array(r.logprob) for r in ranked],
        [np.array(r.logprob) / np.array(r.tokens) for r in ranked],
        [np.array(r.logprob) - np.array(r.unconditional) for r in ranked],
        adjusted,
    ]
    counts: list[dict[str, tuple[float, float]]] = [{} for _ in ranked]
    for way, scores in zip(RANK_METRICS, by_way, strict=True):
        for count, r, score in zip(counts, ranked, scores, strict=True):
            if score is not None:
                count[way] = (float(int(score.argmax()) == r.target), 1.0)
    out = summarise(counts)
    picked = [r.options[int(np.argmax(r.logprob))] for r in ranked]
    right = [r.options[r.target] for r in ranked]
    out |= {f"rank_{k}": v for k, v in macro_f1(right, picked).items()}
    sums_of, of_sum = COUNTS["macro_f1"]
    low, high = of_sums(sums_of(right, picked), of_sum)
    out |= {"rank_macro_f1/low": low, "rank_macro_f1/high": high, "rank_macro_f1/of": float(len(ranked))}
    out["rank_chance"] = 100.0 * math.fsum(1 / len(r.options) for r in ranked) / len(ranked)
    if all(r.classes for r in ranked):
        # By template: each may have its own words for a class.
        words: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        for r, word in zip(ranked, right, strict=True):
            words[r.template][word] += 1
        out["rank_majority"] = 100.0 * sum(max(counts.values()) for counts in words.values()) / len(ranked)
    return out


def ranked_records(ranked: Sequence[Ranked], *, sensitive: Collection[str], show_text: bool) -> list[dict[str, Any]]:
    """As they may be written: the options of a task named in `sensitive` are null unless `show_text`."""
    records = []
    for r in ranked:
        hidden = r.task in sensitive and not show_text
        records.append(finite(dataclasses.asdict(r)) | ({"options": None, "prompt": None} if hidden else {}))
    return records


def write_ranked(path: Path, ranked: Sequence[Ranked], *, sensitive: Collection[str], show_text: bool) -> None:
    """ranked.jsonl: a line an example."""
    records = ranked_records(ranked, sensitive=sensitive, show_text=show_text)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text(path, "".join(lines), private=bool(sensitive))


def _calibrated(ranked: Sequence[Ranked]) -> list[np.ndarray | None]:
    """Log of each option's share among its example's, less the mean over the examples of the template."""
    by_template: dict[str, list[np.ndarray]] = collections.defaultdict(list)
    for r in ranked:
        if r.classes:
            by_template[r.template].append(_log_shares(r))
    means = {template: np.mean(found, axis=0) for template, found in by_template.items() if len(found) > 1}
    return [_log_shares(r) - means[r.template] if r.classes and r.template in means else None for r in ranked]


def _log_shares(r: Ranked) -> np.ndarray:
    scores = np.array(r.logprob)
    return scores - np.logaddexp.reduce(scores)
