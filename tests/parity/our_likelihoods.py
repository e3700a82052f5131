"""Our side of make_likelihoods.py. Runs in .venv, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from itune.data.prompt import render_spans
from itune.data.records import Record
from itune.data.schedule import Segment
from itune.data.tokenizer import Tokenizer
from itune.evaluation.evaluate import MemoryReader
from itune.evaluation.rank import Question, rank, rank_metrics
from itune.inference.loglikelihood import Scorer
from tests.parity import likelihoods, ours


def faults(scorer: Scorer, pairs: Sequence[Any], references: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs; which token is likeliest may where the reference's two best are next to equal."""
    found = []
    for pair, got, theirs in zip(pairs, scorer.score(pairs), references, strict=True):
        if not abs(got.logprob - theirs["logprob"]) <= likelihoods.TOLERANCE:
            found.append(f"{pair}: {got.logprob}, not {theirs['logprob']}")
        if got.greedy != theirs["greedy"] and theirs["gap"] > ours.LOGIT_TOLERANCE:
            found.append(f"{pair}: greedy is {got.greedy}, not {theirs['greedy']}")
    return found


def ranking_faults(scorer: Scorer, tokenizer: Tokenizer, theirs: Mapping[str, Any]) -> list[str]:
    """What differs in the ranks of likelihoods.QUESTIONS: log-probabilities of the options, accuracy by each way."""
    records = []
    for n, (question, target) in enumerate(likelihoods.QUESTIONS):
        texts = {"inputs_text": question, "targets_text": target}
        ids = {"inputs": tokenizer.encode(question), "targets": tokenizer.encode(target)}
        where = {"task": "parity", "split": "validation", "example": n, "variant": 0}
        spans = render_spans(tokenizer, "plain", **ids, **texts)
        records.append(Record(id=str(n), template="t", extras={}, spans=spans, **texts, **where))
    questions = [
        Question(
            group="held_out",
            task="parity",
            segment=Segment(task=0, record=n, epoch=0, num_inputs=len(r.spans[0].ids), num_targets=len(r.spans[1].ids)),
            truncate_side="right",
        )
        for n, r in enumerate(records)
    ]
    sizes, reader = {0: len(records)}, MemoryReader([records])
    found = rank(questions, sizes, reader, tokenizer, "plain", scorer, lambda: None)
    faults = []
    for ranked, given in zip(found, theirs["logprobs"], strict=True):
        for got, others in ((ranked.logprob, given), (ranked.unconditional, theirs["alone"])):
            by_option = dict(zip(likelihoods.OPTIONS, others, strict=True))
            apart = max(abs(x - by_option[option]) for option, x in zip(ranked.options, got, strict=True))
            if apart > likelihoods.OPTION_TOLERANCE:
                faults.append(f"question {ranked.id}: {apart:.1e} nats apart")
    accuracy = rank_metrics(found)
    wrong = {way: x for way, x in theirs["accuracy"].items() if abs(accuracy[way] - x) > 1e-6}
    faults += [f"{way}: {accuracy[way]}, not {x}" for way, x in wrong.items()]
    return faults
