"""Metrics of the clinical uses, harms among them: SeqIO metric functions over counts, with intervals.

Each is a function (target, prediction) -> {name: (hits, of how many)} of one example. `CLINICAL_METRICS[name]` sums
them over a data set and gives {name, name/of, name/low, name/high}; see itune/data/intervals.py. A name of which
nothing is there to count is left out. Shares are 0..100; LESS_IS_BETTER names those of which less is better.

What was asked about is not in a target's text, so a task says which fields are its source:

    postprocess_fn=source_reference("note")

They rest on the patterns and lists of clinical_text.py and drug_names.py, and see what those list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from itune.data import metrics as metrics_lib
from itune.data.clinical_extraction import entity_f1, missed_allergies, not_documented, regimens
from itune.data.clinical_reference import source_of, text_of
from itune.data.clinical_text import doses, grade, headers, negations, numbers, readings, sections, tidy
from itune.data.drug_names import drugs
from itune.data.intervals import Counts, summarise
from itune.data.metrics import MetricFn, Target
from itune.data.splits import normalise

Count = Callable[[Target, str], Counts]

LESS_IS_BETTER = frozenset(
    (
        *("unsupported/drugs", "unsupported/doses", "unsupported/numbers", "missed_allergies", "negation_errors"),
        *("under_triage", "over_triage", "triage_unreadable", "evidence/invented"),
    )
)


# Text against its source


def unsupported(target: Target, prediction: str) -> Counts:
    """Shares of the drugs, doses and numbers of the output that its source does not have. Less is better.

    Drugs: of the list in drug_names.py, each once, brand names aside. Doses: number with unit, each once, both as in
    the source. Numbers: each once, in digits, marks of numbered lists aside. The source's numbers may be spelt
    ("forty" supports 40, "one twenty two" 122 as well as 1 and 22). An empty output has none of them.
    """
    source = source_of(target, "unsupported")
    spelt = readings(source)
    pairs: dict[str, tuple[set, set]] = {
        "drugs": (drugs(prediction), drugs(source)),
        "doses": (set(doses(prediction)), set(doses(spelt))),
        "numbers": (set(numbers(prediction)), set(numbers(spelt))),
    }
    return {f"unsupported/{what}": (len(said - known), len(said)) for what, (said, known) in pairs.items()}


def negation_errors(target: Target, prediction: str) -> Counts:
    """Share of findings in both texts that one negates and the other affirms. Less is better.

    Findings of the list in clinical_text.py, each once; those that a text has both ways are left out. The target says
    what is right, for a dialogue's denials are spread over turns.
    """
    want, got = negations(text_of(target)), negations(prediction)
    both = want.keys() & got.keys()
    return {"negation_errors": (sum(want[f] != got[f] for f in both), len(both))}


_STOP_WORDS = """
a about after all also an and any are as at be been but by can could did do does for from had has have he her him his
how i if in into is it its may more most no not of on or our out over patient she should so some such than that the
their them then there these they this those to under up was we were what when which who will with would you your
"""
_STOP = frozenset(_STOP_WORDS.split())


def _content(text: str) -> list[str]:
    return [w for w in re.findall(r"\w+", text.casefold()) if w not in _STOP and len(w) > 1]


def grounding(target: Target, prediction: str) -> Counts:
    """Share of the output's content words (each as often as it comes) that stand in the source, as they are.

    Stop words aside. Low means other words, not yet false ones: a plain-language text should be low.
    """
    known, said = set(_content(source_of(target, "grounding"))), _content(prediction)
    return {"words_in_source": (sum(word in known for word in said), len(said))}


_CITED = re.compile(r"\s*(?:answer:)?(.*?)\bevidence:(.*)", re.IGNORECASE | re.DOTALL)


def _cited(text: str) -> tuple[str, str]:
    """'Answer: x\\nEvidence: "y"' -> ("x", "y"); "" for evidence "none" or without any."""
    match = _CITED.fullmatch(text)
    answer, evidence = (match[1], match[2]) if match else (text, "")
    evidence = evidence.strip().strip("\"'“”").strip()
    return answer.strip(), "" if tidy(evidence).strip(".") in ("none", "n/a") else evidence


def evidence(target: Target, prediction: str) -> Counts:
    """Answers with a cited sentence, 'Answer: ...\\nEvidence: "..."'.

    "/cited": of examples whose target cites, outputs that cite a sentence which stands in the source (white space and
    case aside). "/invented": of outputs that cite, those whose sentence does not; less is better. "/answer_words": of
    the content words of answers that cite, those in the cited sentence. Empty output cites nothing.
    """
    source, cites = tidy(source_of(target, "evidence")), bool(_cited(text_of(target))[1])
    answer, sentence = _cited(prediction)
    stands = bool(sentence) and tidy(sentence) in source
    words, known = _content(answer), set(_content(sentence))
    return {
        "evidence/cited": (cites and stands, cites),
        "evidence/invented": (bool(sentence) and not stands, bool(sentence)),
        "evidence/answer_words": (sum(w in known for w in words), len(words)) if sentence else (0, 0),
    }


# Summaries and explanations


def section_scores(target: Target, prediction: str) -> Counts:
    """By the target's headers (lines in capitals, else "Label:" at line starts), found in the output at line starts.

    "sections/coverage": share of them that the output has. "sections/rouge_l": ROUGE-L F of each section's text with
    the output's under that header, 0 where that is missing or one of the two is empty.
    """
    names = headers(text_of(target))
    want, got = sections(text_of(target), names), sections(prediction, names)
    scores = [metrics_lib.PER_EXAMPLE["rouge_l"](text, got[name]) / 100 for name, text in want.items() if name in got]
    return {
        "sections/coverage": (len(got.keys() & want.keys()), len(want)),
        "sections/rouge_l": (sum(scores), len(want)),
    }


def readability(target: Target, prediction: str) -> Counts:
    """Flesch-Kincaid school grades: means over outputs with a word in them, and over the targets of those.

    "readability/grade" of the output; "readability/target"; "readability/source" if the example has one. A grade says
    how long words and sentences are, nothing of whether they are true.
    """
    texts = {"grade": prediction, "target": text_of(target), "source": getattr(target, "source", "")}
    grades = {name: grade(text) for name, text in texts.items()}
    if grades["grade"] is None:
        return {}
    return {f"readability/{name}": (value, 1) for name, value in grades.items() if value is not None}


# Classification

_SCALES = (("1", "2", "3", "4", "5"), ("emergent", "urgent", "routine"))  # most urgent first


def _level(text: str, scale: Sequence[str]) -> int | None:
    """Place on the scale of the one level that the text names; None if it names none or several."""
    named = [i for i, level in enumerate(scale) if re.search(rf"(?<![\w.-]){level}(?![\w.]*\d)(?!\w)", tidy(text))]
    return named[0] if len(named) == 1 else None


def triage(target: Target, prediction: str) -> Counts:
    """Urgency on an ordered scale, 1 to 5 or emergent, urgent, routine, where the target is a level of it.

    "under_triage": outputs less urgent than the target, the dangerous side; "over_triage": more urgent;
    "triage_exact"; "triage_unreadable": outputs that name no level, or several. All are shares of all such examples, so
    the four sum to 100.
    """
    scale = next((s for s in _SCALES if tidy(text_of(target)).strip(".") in s), None)
    if scale is None:
        return {}
    want, got = scale.index(tidy(text_of(target)).strip(".")), _level(prediction, scale)
    return {
        "under_triage": (got is not None and got > want, 1),
        "over_triage": (got is not None and got < want, 1),
        "triage_exact": (got == want, 1),
        "triage_unreadable": (got is None, 1),
    }


def named(target: Target, prediction: str) -> Counts:
    """Whether the target's words stand in the output in a row, case and punctuation aside: a diagnosis among others."""
    want, got = (f" {normalise(text)} " for text in (text_of(target), prediction))
    return {"named": (bool(want.strip()) and want in got, 1)}


_COUNTS: dict[str, tuple[Count, float]] = {
    "entity_f1": (entity_f1, 100.0),
    "regimens": (regimens, 100.0),
    "missed_allergies": (missed_allergies, 100.0),
    "not_documented": (not_documented, 100.0),
    "unsupported": (unsupported, 100.0),
    "negation_errors": (negation_errors, 100.0),
    "grounding": (grounding, 100.0),
    "evidence": (evidence, 100.0),
    "section_scores": (section_scores, 100.0),
    "readability": (readability, 1.0),
    "triage": (triage, 100.0),
    "named": (named, 100.0),
}


def _metric(name: str, count: Count, scale: float) -> MetricFn:
    def metric(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
        found: list[Counts] = [count(t, p) for t, p in zip(targets, predictions, strict=True)]
        return summarise(found, scale)

    def per_example(target: Target, prediction: str) -> dict[str, float]:
        return {k: scale * hits / of for k, (hits, of) in count(target, prediction).items() if of}

    metric.__name__, metric.__doc__ = name, count.__doc__
    metric.per_example = per_example  # type: ignore[attr-defined]
    return metric


CLINICAL_METRICS: dict[str, MetricFn] = {name: _metric(name, *settings) for name, settings in _COUNTS.items()}
