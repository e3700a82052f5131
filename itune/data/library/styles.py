"""How options, exemplars and reasoning are laid out: tables that variants choose from by key. The wording is ours."""

from __future__ import annotations

import dataclasses
import hashlib
import string
from collections.abc import Callable, Sequence

MARKS: dict[str, Callable[[int], str]] = {
    "": lambda n: "",
    "upper": lambda n: string.ascii_uppercase[n],
    "lower": lambda n: string.ascii_lowercase[n],
    "number": lambda n: str(n + 1),
    "roman": lambda n: ("i", "ii", "iii", "iv", "v", "vi", "vii", "viii", "ix", "x", "xi", "xii")[n],
}
MOST_MARKED = {"": 10**6, "upper": 26, "lower": 26, "number": 10**6, "roman": 12}


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptionStyle:
    """A list of options. item: of {mark} and {text}; answer: what the right one becomes in the targets."""

    id: str
    header: str = ""
    item: str = "- {text}"
    between: str = "\n"
    marks: str = ""
    answer: str = "{text}"

    def fits(self, options: Sequence[str]) -> bool:
        """Whether it can show them: enough marks, none that could be an option, texts of one line in a style of one."""
        if len(options) > MOST_MARKED[self.marks]:
            return False
        if self.marks and any(_bare(MARKS[self.marks](n)) in map(_bare, options) for n in range(len(options))):
            return False
        return "\n" in self.between or not any("\n" in text for text in options)

    def show(self, options: Sequence[str]) -> str:
        items = [self.item.format(mark=self._mark(n), text=text) for n, text in enumerate(options)]
        return self.header + self.between.join(items)

    def right(self, options: Sequence[str], gold: int) -> str:
        return self.answer.format(mark=self._mark(gold), text=options[gold])

    def _mark(self, n: int) -> str:
        return MARKS[self.marks](n)


def _bare(text: str) -> str:
    """ "$40" -> "number": where options are numbers, a number can't be the mark of one."""
    text = text.strip("()[].,: ").casefold()
    return "number" if text.strip("$%").replace(",", "").replace(".", "", 1).isdigit() else text


OPTION_STYLES = (
    OptionStyle(id="dashes", header="OPTIONS:\n"),
    OptionStyle(id="bullets", header="Possible answers:\n", item="* {text}"),
    OptionStyle(id="lines", header="Choose your answer from:\n", item="{text}"),
    OptionStyle(id="slashes", header="Options: ", item="{text}", between=" / "),
    OptionStyle(id="semicolons", header="One of: ", item="{text}", between="; "),
    OptionStyle(id="brackets", header="OPTIONS:\n", item="({mark}) {text}", marks="upper", answer="({mark})"),
    OptionStyle(id="letters", header="Choices:\n", item="{mark}. {text}", marks="upper", answer="{mark}"),
    OptionStyle(id="small", header="Pick one:\n", item="{mark}) {text}", marks="lower", answer="{mark})"),
    OptionStyle(id="numbers", header="Possible answers:\n", item="{mark}. {text}", marks="number", answer="{mark}"),
    OptionStyle(id="squares", header="Which of these?\n", item="[{mark}] {text}", marks="upper", answer="[{mark}]"),
    OptionStyle(id="roman", header="Options: ", item="({mark}) {text}", between="; ", marks="roman", answer="({mark})"),
    OptionStyle(id="whole", header="Choices:\n", item="{mark}: {text}", marks="upper", answer="{mark}: {text}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShotStyle:
    """How exemplars stand before the query. exemplar: of {number}, {inputs}, {targets}; query: of the first two."""

    id: str
    exemplar: str
    query: str
    between: str = "\n\n"
    opening: str = ""


SHOT_STYLES = (
    ShotStyle(id="plain", exemplar="{inputs}\n{targets}", query="{inputs}"),
    ShotStyle(id="plain_spaced", exemplar="{inputs}\n{targets}", query="{inputs}", between="\n\n\n"),
    ShotStyle(id="rules", exemplar="{inputs}\n{targets}", query="{inputs}", between="\n\n---\n\n"),
    ShotStyle(id="hashes", exemplar="{inputs}\n{targets}", query="{inputs}", between="\n\n###\n\n"),
    ShotStyle(id="input_output", exemplar="Input: {inputs}\nOutput: {targets}", query="Input: {inputs}\nOutput:"),
    ShotStyle(id="q_a", exemplar="Q: {inputs}\nA: {targets}", query="Q: {inputs}\nA:"),
    ShotStyle(
        id="numbered",
        exemplar="Example {number}\n{inputs}\n=> {targets}",
        query="Example {number}\n{inputs}\n=>",
    ),
    ShotStyle(
        id="told",
        opening="Here are some examples, and then one for you.\n\n",
        exemplar="{inputs}\nAnswer: {targets}",
        query="{inputs}\nAnswer:",
    ),
)
# Where the wording itself ends in a cue such as "Answer:", exemplars go on behind it.
CUED = ("plain", "plain_spaced", "rules", "hashes")

COT_CUES = (
    "Let's work this out step by step.",
    "Think it through step by step before you answer.",
    "Reason step by step, then give the answer.",
    "Explain your reasoning step by step.",
    "Go step by step and finish with the answer.",
    "Take it step by step, and say what you conclude.",
)
# Around the rationale; each ends in a phrase by which the answer is found again.
COT_ENDS = (
    "{rationale} So the answer is {answer}.",
    "{rationale}\nThe answer is {answer}.",
    "{rationale} Therefore, the answer is {answer}.",
    "{rationale}\nSo the final answer is {answer}.",
)
FOUND_BEHIND = "answer is "


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpeakerStyle:
    """How the turns of a dialogue are told apart: names of the two who take turns, or a sign before each."""

    id: str
    names: tuple[str, str]


SPEAKER_STYLES = (
    SpeakerStyle(id="letters", names=("A: ", "B: ")),
    SpeakerStyle(id="persons", names=("Person 1: ", "Person 2: ")),
    SpeakerStyle(id="speakers", names=("Speaker A: ", "Speaker B: ")),
    SpeakerStyle(id="dashes", names=("- ", "- ")),
    SpeakerStyle(id="lines", names=("", "")),
)


def tables_digest() -> str:
    """Of all tables here."""
    tables = (OPTION_STYLES, SHOT_STYLES, CUED, COT_CUES, COT_ENDS, FOUND_BEHIND, SPEAKER_STYLES)
    return hashlib.sha256(repr(tables).encode()).hexdigest()[:16]
