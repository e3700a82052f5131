"""Metrics by name, as SeqIO metric functions: (targets, predictions) -> {name: value in 0..100}.

`METRICS[name]` scores a data set; where that is a mean, `PER_EXAMPLE[name]` scores one example on the same scale. A
target is one text, or a list of equally good ones, of which the best counts. Imports neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import collections
import decimal
import functools
import json
import re
import string
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from itune.errors import UserError, nearest

Target = str | Sequence[str]
MetricFn = Callable[[Sequence[Target], Sequence[str]], dict[str, float]]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_NUMBER = re.compile(r"(?:(?<!\d)[-\u2212])?(?:\d[\d,]*(?:\.\d+)?|\.\d+)")
_ANSWER_MARK = "####"


def _tidy(text: str) -> str:
    """Case folded, runs of white space as one blank."""
    return " ".join(text.split()).casefold()


def _exact(target: str, prediction: str) -> float:
    return 100.0 * (_tidy(target) == _tidy(prediction))


def _label(text: str) -> str:
    return _tidy(text).strip(string.punctuation + " ")


def _accurate(target: str, prediction: str) -> float:
    return 100.0 * (_label(target) == _label(prediction))


def _words(text: str) -> list[str]:
    """SQuAD's normalisation: no case, no punctuation, no articles (Rajpurkar et al. 2016, evaluate-v1.1.py)."""
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


def _f1(common: int, targets: int, predictions: int) -> float:
    """100 * F1 from counts; two empty sides agree."""
    total = targets + predictions
    return 100.0 * 2 * common / total if total else 100.0


def _token_f1(target: str, prediction: str) -> float:
    want, got = collections.Counter(_words(target)), collections.Counter(_words(prediction))
    return _f1((want & got).total(), want.total(), got.total())


@functools.cache
def _rouge_scorer(kind: str) -> Any:
    from rouge_score import rouge_scorer  # pulls in nltk: only where the metric is used

    # Summaries of one sentence a line are what "Lsum" is for; a text without line breaks is one sentence.
    return rouge_scorer.RougeScorer([kind], use_stemmer=True)


def _rouge(kind: str, target: str, prediction: str) -> float:
    return 100.0 * _rouge_scorer(kind).score(target, prediction)[kind].fmeasure


def _last_number(text: str) -> decimal.Decimal | None:
    """The number behind the first "####", GSM8K's own mark of an answer; where there is no such mark, the last one."""
    _, marked, behind = text.partition(_ANSWER_MARK)
    numbers = _NUMBER.findall(behind.lstrip().partition("\n")[0])[:1] if marked else _NUMBER.findall(text)
    return decimal.Decimal(numbers[-1].replace(",", "").replace("\u2212", "-")) if numbers else None


def _final_number(target: str, prediction: str) -> float:
    want = _last_number(target)
    return 100.0 * (want is not None and want == _last_number(prediction))


def _json_pairs(value: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], str]]:
    """{"meds": [{"dose": 5}, {"dose": 10}], "allergies": []} -> meds.dose=5, meds.dose=10, allergies=(none).

    Lists are flattened, so their order is free. An empty list, object, string or null is the pair (path, "(none)"):
    correctly finding nothing then counts, and inventing something costs.
    """
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in _json_pairs(item, (*path, _tidy(key)))]
    if isinstance(value, list) and value:
        return [pair for item in value for pair in _json_pairs(item, path)]
    if value is None or isinstance(value, (dict, list)) or value == "":
        return [(path, "(none)")]
    if isinstance(value, bool):
        return [(path, str(value).casefold())]
    if isinstance(value, (int, float)):
        return [(path, str(int(value)) if value == int(value) else str(value))]
    return [(path, _tidy(value))]


def _parse_json(text: str) -> list[tuple[tuple[str, ...], str]] | None:
    try:
        return _json_pairs(json.loads(text, parse_constant=str))
    except (ValueError, OverflowError, RecursionError):
        return None


def _json_counts(target: str, prediction: str) -> tuple[int, int, int]:
    """(pairs in both, pairs in the target, pairs in the prediction). UserError for a target that is not JSON."""
    want = _parse_json(target)
    if want is None:
        raise UserError(f"json_field_f1 needs JSON targets; one of {len(target)} characters is not JSON")
    got = _parse_json(prediction) or []
    return (collections.Counter(want) & collections.Counter(got)).total(), len(want), len(got)


def _json_field_f1(target: str, prediction: str) -> float:
    return _f1(*_json_counts(target, prediction))


def _best(score: Callable[[str, str], float]) -> Callable[[Target, str], float]:
    """Lets a per-text score take a list of references."""

    @functools.wraps(score)
    def best(target: Target, prediction: str) -> float:
        references = [target] if isinstance(target, str) else target
        return max(score(reference, prediction) for reference in references)

    return best


PER_EXAMPLE: dict[str, Callable[[Target, str], float]] = {
    "exact_match": _best(_exact),
    "accuracy": _best(_accurate),
    "token_f1": _best(_token_f1),
    "rouge_l": _best(functools.partial(_rouge, "rougeL")),
    "rouge_1": _best(functools.partial(_rouge, "rouge1")),
    "rouge_2": _best(functools.partial(_rouge, "rouge2")),
    "rouge_lsum": _best(functools.partial(_rouge, "rougeLsum")),
    "json_field_f1": _best(_json_field_f1),
    "final_number": _best(_final_number),
}


def _mean(name: str, targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    scores = [PER_EXAMPLE[name](t, p) for t, p in zip(targets, predictions, strict=True)]
    return {name: sum(scores) / len(scores) if scores else 0.0}


def exact_match(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions equal to a target, white space and case aside."""
    return _mean("exact_match", targets, predictions)


def accuracy(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of right labels: like exact_match, and "Yes." is "yes" (punctuation around the label does not count)."""
    return _mean("accuracy", targets, predictions)


def token_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean F1 of words, as SQuAD's evaluation script counts them (Rajpurkar et al. 2016)."""
    return _mean("token_f1", targets, predictions)


def rouge_l(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-L F over the whole text, Porter stemmer on (Lin 2004; the rouge-score package)."""
    return _mean("rouge_l", targets, predictions)


def rouge_1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-1 F (single words), Porter stemmer on."""
    return _mean("rouge_1", targets, predictions)


def rouge_2(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-2 F (pairs of words), Porter stemmer on."""
    return _mean("rouge_2", targets, predictions)


def rouge_lsum(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean ROUGE-Lsum F: ROUGE-L by sentences, which are lines; Porter stemmer on."""
    return _mean("rouge_lsum", targets, predictions)


def json_field_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Micro F1 over (field, value) pairs: pairs are counted over the data set, then divided once.

    Case is folded, lists are flattened, an empty value is a pair of its own; a prediction that is not JSON has no
    pairs. With several references an example counts with the one that it matches best.
    """
    common = wanted = got = 0
    for target, prediction in zip(targets, predictions, strict=True):
        references = [target] if isinstance(target, str) else target
        counts = max((_json_counts(r, prediction) for r in references), key=lambda c: _f1(*c))
        common, wanted, got = common + counts[0], wanted + counts[1], got + counts[2]
    return {"json_field_f1": _f1(common, wanted, got) if targets else 0.0}


def final_number(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Share of predictions whose answer equals the target's, as numbers: "... so 1,250." is 1250.

    The answer stands behind "####", as in GSM8K (Cobbe et al. 2021), and is a text's last number without it.
    """
    return _mean("final_number", targets, predictions)


METRICS: dict[str, MetricFn] = {
    "exact_match": exact_match,
    "accuracy": accuracy,
    "token_f1": token_f1,
    "rouge_l": rouge_l,
    "rouge_1": rouge_1,
    "rouge_2": rouge_2,
    "rouge_lsum": rouge_lsum,
    "json_field_f1": json_field_f1,
    "final_number": final_number,
}


def bleu(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus BLEU with up to four words in a row, 13a tokens (Papineni et al. 2002; the sacrebleu package)."""
    return {"bleu": _corpus("corpus_bleu", targets, predictions)}


def chrf(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Corpus chrF2 over up to six characters in a row (Popović 2015; the sacrebleu package)."""
    return {"chrf": _corpus("corpus_chrf", targets, predictions)}


def _corpus(name: str, targets: Sequence[Target], predictions: Sequence[str]) -> float:
    import sacrebleu  # only where the metric is used

    if not targets:
        return 0.0
    score = getattr(sacrebleu, name)([p for _, p in zip(targets, predictions, strict=True)], _places(targets)).score
    return min(100.0, float(score))  # its sums of logarithms can end a hair above


def _places(targets: Sequence[Target]) -> list[list[str | None]]:
    """One list for each place of a reference; a target that has fewer has none there."""
    references = [[target] if isinstance(target, str) else list(target) for target in targets]
    most = max(map(len, references))
    return [[found[n] if n < len(found) else None for found in references] for n in range(most)]


def macro_f1(targets: Sequence[Target], predictions: Sequence[str]) -> dict[str, float]:
    """Mean over the targets' labels of F1, labels compared as in `accuracy`; another prediction is no label's.

    Of several references the predicted one counts as the target, else the first.
    """
    want, got = _labels(targets, predictions)
    scores = []
    for label in sorted(set(want)):
        common = sum(w == g == label for w, g in zip(want, got, strict=True))
        scores.append(_f1(common, want.count(label), got.count(label)))
    return {"macro_f1": sum(scores) / len(scores) if scores else 0.0}


def _labels(targets: Sequence[Target], predictions: Sequence[str]) -> tuple[list[str], list[str]]:
    want, got = [], [_label(prediction) for prediction in predictions]
    for target, label in zip(targets, got, strict=True):
        labels = [_label(text) for text in ([target] if isinstance(target, str) else target)]
        want.append(label if label in labels else labels[0])
    return want, got


# Of a data set as a whole: what they say of one example alone is no part of their mean.
METRICS |= {"bleu": bleu, "chrf": chrf, "macro_f1": macro_f1}


# What these are made of, for intervals: name -> (statistics of each example [n, k], the score of their sum).
Counts = tuple[Callable[[Sequence[Target], Sequence[str]], np.ndarray], Callable[[np.ndarray], float]]


def _json_statistics(targets: Sequence[Target], predictions: Sequence[str]) -> np.ndarray:
    pairs = zip(targets, predictions, strict=True)
    found = [[_json_counts(r, p) for r in ([t] if isinstance(t, str) else t)] for t, p in pairs]
    return np.array([max(counts, key=lambda c: _f1(*c)) for counts in found], np.float64)


def _label_statistics(targets: Sequence[Target], predictions: Sequence[str]) -> np.ndarray:
    """Of every label: whether it is right here, wanted, given."""
    want, got = _labels(targets, predictions)
    both = list(zip(want, got, strict=True))
    rows = [[(w == g == label, w == label, g == label) for label in sorted(set(want))] for w, g in both]
    return np.array(rows, np.float64).reshape(len(rows), -1)


def _macro_of_sums(sums: np.ndarray) -> float:
    """Of the labels that were drawn."""
    scores = [_f1(*counts) for counts in sums.reshape(-1, 3) if counts[1] > 0]
    return float(sum(scores) / len(scores))


def _corpus_counts(name: str) -> Counts:
    def metric() -> Any:
        import sacrebleu

        return {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()

    def statistics(targets: Sequence[Target], predictions: Sequence[str]) -> np.ndarray:
        places = _places(targets)
        return np.array(metric()._extract_corpus_statistics(predictions, places), np.float64)

    return statistics, lambda sums: min(100.0, float(metric()._compute_score_from_stats(sums.tolist()).score))


COUNTS: dict[str, Counts] = {
    "json_field_f1": (_json_statistics, lambda sums: _f1(*sums)),
    "macro_f1": (_label_statistics, _macro_of_sums),
    "bleu": _corpus_counts("bleu"),
    "chrf": _corpus_counts("chrf"),
}


def metric_fn(metric: str | MetricFn, where: str) -> MetricFn:
    """ "rouge_l" -> `rouge_l`; a function stays as it is. UserError, naming `where`, for an unknown name."""
    if callable(metric):
        return metric
    if metric not in METRICS:
        hint = nearest(metric, METRICS) or f" The metrics are {', '.join(METRICS)}."
        raise UserError(f"{where}: unknown metric {metric!r}.{hint}")
    return METRICS[metric]
