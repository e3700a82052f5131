"""Targets and predictions that both environments score."""

from __future__ import annotations

TARGETS = (
    "The patient has a fever and a cough.",
    "Take two tablets daily.\nDrink enough water.\nCome back in a week.",
    "no",
    "positive",
    "Der Hund läuft im Park.",
    "yes",
    "no",
    "yes",
)
PREDICTIONS = (
    "A patient with fever, who coughs.",
    "Take two tablets a day.\nCome back in one week.",
    "yes",
    "positive",
    "Ein Hund läuft durch den Park.",
    "yes",
    "no",
    "maybe",
)
LABELS = slice(2, None)  # short ones, for macro-F1
