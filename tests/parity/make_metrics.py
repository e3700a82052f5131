"""What rouge-score, sacrebleu and scikit-learn make of texts.py. Runs in .venv-parity."""

from __future__ import annotations

import sacrebleu
from rouge_score import rouge_scorer
from sklearn.metrics import f1_score

from tests.parity.texts import LABELS, PREDICTIONS, TARGETS

ROUGE = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL", "rouge_lsum": "rougeLsum"}


def references() -> dict[str, float]:
    """In 0..100, as itune has them."""
    scorer = rouge_scorer.RougeScorer(list(ROUGE.values()), use_stemmer=True)
    scores = [scorer.score(t, p) for t, p in zip(TARGETS, PREDICTIONS, strict=True)]
    found = {ours: 100 * sum(s[theirs].fmeasure for s in scores) / len(scores) for ours, theirs in ROUGE.items()}
    found["bleu"] = sacrebleu.corpus_bleu(list(PREDICTIONS), [list(TARGETS)]).score
    found["chrf"] = sacrebleu.corpus_chrf(list(PREDICTIONS), [list(TARGETS)]).score
    targets, predictions = TARGETS[LABELS], PREDICTIONS[LABELS]
    labels = sorted(set(targets))
    macro = f1_score(targets, predictions, labels=labels, average="macro", zero_division=0)
    return {**found, "macro_f1": 100 * float(macro)}
