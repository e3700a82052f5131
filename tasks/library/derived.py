"""What some data sets' declarations need beyond paths: pure functions of a row, named there by `derive`.

Each takes a row as its owner has it and returns fields to add to it, or None where the row is to be left out.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from typing import Any

_GSM8K_ANNOTATION = re.compile(r"<<.*?>>")

_AQUA_LETTER = re.compile(r"^\s*[A-Ea-e]\s*[).:]\s*")
_AQUA_CONCLUSION = re.compile(
    r"(?:^|(?<=[\s.,;:]))(?i:(?:so|hence|thus|therefore)?,?\s*(?:the\s+)?(?:correct\s+)?(?:answer|ans|option|choice)\b)"
    r"[\s.:=-]*(?i:(?:is|option|choice)\b[\s:=-]*)*\(?[A-E]\)?"
    r"(?i:\s+is\s+(?:the\s+)?(?:correct|answer)(?:\s+(?:answer|option))?)?[\s.!]*$"
)

_SPACE_AT_END = re.compile(r"\s+\.$")
_SPACE_BEFORE = re.compile(r"\s+([.,?!;:%])")
_SPLIT_CONTRACTION = re.compile(r"\s*([’'])\s*(?=(?:s|t|m|d|re|ve|ll)\b)")

_HTML_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)
_ESCAPED_QUOTE = re.compile(r'\\?""|\\"')


_QUOTED = re.compile(r'(?<!\S)"\s+([^"]*?)\s+"(?!\S)')
_SPLIT_NEGATION = re.compile(r"\b\s+(n['’]t)\b")
_AFTER_OPENING = re.compile(r"(?<=[(\[$£€])\s+|(?<=#)\s+(?=\d)")
_SPLIT_TIME = re.compile(r"(?<=\d) : (?=\d)")
_SECOND_STOP = re.compile(r"(?<=\.)\s+\.(?=\s|$)")
_BEFORE_CLOSING = re.compile(r"\s+(?=(?:\.\.\.|[.,?!;:%)\]])(?:[\s\")\].,;:]|$))")


def cnn_dailymail(row: dict[str, Any]) -> dict[str, Any] | None:
    """`points`: the highlights, one a line, without the owner's space before the full stop that ends a line."""
    lines = [_SPACE_AT_END.sub(".", line.strip()) for line in row["highlights"].splitlines() if line.strip()]
    return {"points": "\n".join(lines)} if lines else None


def gsm8k(row: dict[str, Any]) -> dict[str, Any] | None:
    """Parts `answer` at its "####": `rationale` without the calculator's <<annotations>>, `final` without commas."""
    rationale, mark, final = row["answer"].rpartition("####")
    rationale = _GSM8K_ANNOTATION.sub("", rationale).strip()
    final = final.strip().replace(",", "")
    if not (mark and rationale and final):
        return None
    return {"rationale": rationale, "final": final}


def aqua_rat(row: dict[str, Any]) -> dict[str, Any] | None:
    """`choices`: the options without letters; `reasoning`: the rationale without the sentence that names one."""
    choices = [_AQUA_LETTER.sub("", option).strip() for option in row["options"]]
    reasoning = _AQUA_CONCLUSION.sub("", row["rationale"].strip()).strip()
    if not reasoning or not all(choices) or row["correct"] not in list("ABCDE")[: len(choices)]:
        return None
    return {"choices": choices, "reasoning": reasoning}


def coqa(row: dict[str, Any]) -> dict[str, Any] | None:
    """`numbered_questions` and `numbered_answers`: a story's questions and answers, one a line, from 1."""
    questions, answers = row["questions"], row["answers"]["input_text"]
    if not questions or len(questions) != len(answers) or not all(text.strip() for text in (*questions, *answers)):
        return None
    return {
        "numbered_questions": "\n".join(f"{i}. {' '.join(text.split())}" for i, text in enumerate(questions, 1)),
        "numbered_answers": "\n".join(f"{i}. {' '.join(text.split())}" for i, text in enumerate(answers, 1)),
    }


def qrecc(row: dict[str, Any]) -> dict[str, Any] | None:
    """`exchange`: the turns before the question, the question and its answer; None where one of them is empty."""
    turns = [*row["Context"], row["Question"], row["Answer"]]
    return {"exchange": turns} if all(turn.strip() for turn in turns) else None


def daily_dialog(row: dict[str, Any]) -> dict[str, Any] | None:
    """`utterances`: the turns without the owner's spaces before punctuation and in contractions."""
    turns = [_SPLIT_TIME.sub(":", " ".join(turn.split())) for turn in row["dialog"]]
    turns = [_SPLIT_CONTRACTION.sub(r"\1", _SPACE_BEFORE.sub(r"\1", turn)) for turn in turns if turn]
    return {"utterances": turns} if len(turns) > 1 else None


def squad_v2(row: dict[str, Any]) -> dict[str, Any] | None:
    """`replies`: the right answers, or the one word "unanswerable" where the text has none."""
    return {"replies": [text for text in row["answers"]["text"] if text.strip()] or ["unanswerable"]}


def drop(row: dict[str, Any]) -> dict[str, Any] | None:
    """`replies`: the different answers, the most frequent first.

    None where no span comes before the others: they may be the parts of one answer as well as several answers.
    """
    spans = [span.strip() for span in row["answers_spans"]["spans"] if span.strip()]
    count = Counter(span.lower() for span in spans)
    ranked = sorted(dict.fromkeys(spans), key=lambda span: -count[span.lower()])
    if not ranked:
        return None
    highest = [text for text, number in count.items() if number == count[ranked[0].lower()]]
    if len(highest) > 1 and set(row["answers_spans"]["types"]) == {"span"}:
        return None
    return {"replies": ranked}


def sst2(row: dict[str, Any]) -> dict[str, Any] | None:
    """`words`: the sentence or phrase without the owner's space at its end."""
    words = row["sentence"].strip()
    return {"words": words} if words else None


def imdb(row: dict[str, Any]) -> dict[str, Any] | None:
    """`review`: the text with line breaks where the owner has "<br />", one or several."""
    review = _HTML_BREAKS.sub("\n", row["text"]).strip()
    return {"review": review} if review else None


def yelp_polarity(row: dict[str, Any]) -> dict[str, Any] | None:
    """`review`: the text with line breaks and quotes in place of the owner's escapes of them."""
    review = _ESCAPED_QUOTE.sub('"', row["text"].replace("\\n", "\n")).strip()
    return {"review": review} if review else None


def sentiment140(row: dict[str, Any]) -> dict[str, Any] | None:
    """`tweet`: the text in one line, without HTML's entities ("&quot;")."""
    tweet = " ".join(html.unescape(row["text"]).split())
    return {"tweet": tweet} if tweet else None


def mrpc(row: dict[str, Any]) -> dict[str, Any] | None:
    """`sentence1` and `sentence2` as running text: the owner's have spaces around punctuation and quotation marks."""
    texts = {name: _running_text(row[name]) for name in ("sentence1", "sentence2")}
    return texts if all(texts.values()) else None


def paws(row: dict[str, Any]) -> dict[str, Any] | None:
    """As `mrpc`; quotation marks are `` and '' there."""
    return mrpc(row)


def stsb(row: dict[str, Any]) -> dict[str, Any] | None:
    """`score`: the mean rating rounded to a whole number, as text, halves up; None for the unlabelled rows (-1)."""
    return {"score": str(int(row["label"] + 0.5))} if row["label"] >= 0 else None


def dpr(row: dict[str, Any]) -> dict[str, Any] | None:
    """`marked`: the sentence with *asterisks* around the pronoun, where it occurs first; None where it does not."""
    sentence, pronoun = row["sentence"].strip(), row["pronoun"].strip()
    found = _words_like(pronoun, sentence)
    return {"marked": _starred(sentence, found[0])} if found else None


def wsc(row: dict[str, Any]) -> dict[str, Any] | None:
    """`marked`: the text with *asterisks* around the pronoun, of several the one of the number given; None for none."""
    text, pronoun = row["text"].strip(), row["span2_text"].strip()
    found = _words_like(pronoun, text)
    if not found:
        return None
    nearest = min(found, key=lambda match: abs(len(text[: match.start()].split()) - row["span2_index"]))
    return {"marked": _starred(text, nearest)}


def web_nlg_en(row: dict[str, Any]) -> dict[str, Any] | None:
    """`triples`: one a line, subjects and objects without underscores and quotation marks around them."""
    triples = [[part.strip() for part in triple.split(" | ")] for triple in row["input"]]
    if not triples or any(len(triple) != 3 for triple in triples):
        return None
    triples = [[_plain(subject), relation, _plain(other)] for subject, relation, other in triples]
    return {"triples": "\n".join(map(" | ".join, triples))} if all(map(all, triples)) else None


def _plain(name: str) -> str:
    if len(name) > 1 and name[0] == name[-1] == '"':
        name = name[1:-1]
    return name.replace("_", " ").strip()


def _words_like(word: str, text: str) -> list[re.Match[str]]:
    """Where the text has the word by itself, as it is written or else in other letters' case."""
    if not word:
        return []
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    return list(re.finditer(pattern, text)) or list(re.finditer(pattern, text, re.IGNORECASE))


def _starred(text: str, place: re.Match[str]) -> str:
    return f"{text[: place.start()]}*{place.group()}*{text[place.end() :]}"


def _running_text(text: str) -> str:
    """Tokenised English without the spaces around punctuation, in contractions and inside quotation marks."""
    text = " ".join(text.replace("``", ' " ').replace("''", ' " ').split()).replace(". . .", "...")
    text = _SPLIT_CONTRACTION.sub(r"\1", _SPLIT_NEGATION.sub(r"\1", _QUOTED.sub(r'"\1"', text)))
    text = _SECOND_STOP.sub("", _SPLIT_TIME.sub(":", text))
    return _BEFORE_CLOSING.sub("", _AFTER_OPENING.sub("", text))
