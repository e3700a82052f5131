"""A declared data set's prompts: zero- and few-shot, with and without options, inverted, with reasoning.

Everything that looks random (which style, which exemplars, how many, in what order) is a function of the key that the
rendering is given, which is the row's own: see `itune.data.templates`. Imports no SeqIO.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Sequence

from itune.data.library import shots
from itune.data.library.declaration import ANSWER, HISTORY, OPTIONS, RATIONALE, Wording
from itune.data.library.rows import GOLD
from itune.data.library.shots import LAYOUT, MOST_SHOTS, Row, cue, pick
from itune.data.library.styles import (
    COT_CUES,
    COT_ENDS,
    FOUND_BEHIND,
    OPTION_STYLES,
    SPEAKER_STYLES,
    OptionStyle,
)
from itune.data.splits import normalise
from itune.data.templates import Room, Template, check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to put the task. options: they are shown; shots: exemplars may stand before it; cot: reasoning is asked."""

    name: str
    options: bool = False
    shots: bool = False
    inverted: bool = False
    cot: bool = False


VARIANTS = {
    v.name: v
    for v in (
        Variant(name="zs"),
        Variant(name="zs_opt", options=True),
        Variant(name="fs", shots=True),
        Variant(name="fs_opt", options=True, shots=True),
        Variant(name="inv", inverted=True),
        Variant(name="fs_inv", inverted=True, shots=True),
        Variant(name="zs_cot", cot=True),
        Variant(name="fs_cot", cot=True, shots=True),
    )
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class VariantTemplate:
    """A wording of a data set in one variant, as `add_task` takes templates.

    Attributes:
      family: the data set's name; the pool of exemplars is found by it.
      labels: of the options, where rows share them: which words of the wording belong to which.
      same: the fields that make the question: an exemplar never has the query's.
      most_shots: exemplars are drawn 0 to so many; of those that were drawn as many stay as `room` has place for.
      shows_options: reasoning is asked with the options shown.
      layout: of the tables that it chooses from; prepared data are made anew where it changes.
    """

    family: str
    wording: Wording
    variant: Variant
    labels: tuple[str, ...] = ()
    same: tuple[str, ...] = ()
    most_shots: int = MOST_SHOTS
    shows_options: bool = False
    room: Room | None = None
    layout: str = LAYOUT

    @property
    def id(self) -> str:
        return self.wording.id

    @property
    def fields(self) -> tuple[str, ...]:
        used = dict.fromkeys((*self.wording.template.fields, ANSWER, GOLD))
        if self.variant.cot:
            used[RATIONALE] = None
        return tuple(used)

    def check(self, available: Iterable[str], where: str) -> None:
        """UserError unless the rows have its fields; `where` names the task."""
        check_fields(self, available, where)

    def within(self, room: Room) -> VariantTemplate:
        """The template of a model whose prompts have so much room."""
        return dataclasses.replace(self, room=room) if self.variant.shots else self

    def render(self, row: Row, key: int = 0) -> tuple[str, str]:
        """(inputs, targets)."""
        others = self._exemplars(row, key)
        style = self._option_style([row, *others], key)
        inputs, targets = self._one(row, key, style)
        exemplars = [self._one(other, key, style) for other in others]
        return shots.lay_out(exemplars, inputs, key, self.room), targets

    def with_shots(self, shots: int) -> ExactShots:
        """With so many exemplars, or as many as there is room for."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(VariantTemplate)}
        variant = dataclasses.replace(self.variant, shots=shots > 0)
        return ExactShots(**fields | {"variant": variant}, number=shots)

    def shown(self, row: Row, key: int = 0) -> tuple[str, str]:
        """(the list of options that the prompt shows, "" for none; the answer as it stands in that list)."""
        others = self._exemplars(row, key)
        values, block = self._values(row, key, self._option_style([row, *others], key))
        return block, values[ANSWER]

    def _exemplars(self, row: Row, key: int) -> list[Row]:
        if not self.variant.shots:
            return []
        pool = shots.exemplar_pool(self.family)
        return shots.draw(pool, row, key, most=self.most_shots, question=self._question, exact=self._exact())

    def _exact(self) -> int | None:
        return None

    def _question(self, row: Row) -> str:
        text = "\n".join(row[name] for name in self.same)
        return normalise(text) or text

    # One example, without exemplars

    def _one(self, row: Row, key: int, style: OptionStyle | None) -> tuple[str, str]:
        values, block = self._values(row, key, style)
        template = self.wording.template
        inputs, targets = template.render(values)
        if block and OPTIONS not in Template("inputs", self.wording.inputs, "").fields:
            inputs = _before_cue(inputs, block, "\n\n" if pick(key, "gap") % 2 else "\n")
        if self.variant.cot:
            inputs = _before_cue(inputs, COT_CUES[pick(key, "cue") % len(COT_CUES)], "\n")
            end = COT_ENDS[pick(key, "end") % len(COT_ENDS)]
            targets = end.format(rationale=_sentence(values[RATIONALE]), answer=targets.rstrip("."))
        return inputs, targets

    def _values(self, row: Row, key: int, style: OptionStyle | None) -> tuple[dict[str, str], str]:
        """The row's fields as this rendering words them, and the list of options to show, "" for none."""
        values = dict(row)
        if HISTORY in row and row.get(HISTORY, "").startswith("["):
            speakers = SPEAKER_STYLES[pick(key, "speakers") % len(SPEAKER_STYLES)].names
            values[HISTORY] = "\n".join(speakers[n % 2] + turn for n, turn in enumerate(json.loads(row[HISTORY])))
        if not row[GOLD]:
            return values, ""
        options, gold = self._options(row, key)
        if style is None:
            return values | {ANSWER: options[gold]}, ""
        block = style.show(options)
        return values | {OPTIONS: block, ANSWER: style.right(options, gold)}, block

    def _options(self, row: Row, key: int) -> tuple[list[str], int]:
        """The options in this rendering's words and order, and the right one's place.

        A row's own stay in order, and so do numbers.
        """
        options: list[str] = json.loads(row[OPTIONS])
        gold = int(row[GOLD])
        if not self.labels:
            return options, gold
        if words := self.wording.words:
            options = [words[label] for label in self.labels]
        if all(option.isdigit() for option in options):
            return options, gold
        order = sorted(range(len(options)), key=lambda n: pick(key, f"option {self.labels[n]}"))
        return [options[n] for n in order], order.index(gold)

    def _option_style(self, rows: Sequence[Row], key: int) -> OptionStyle | None:
        """How query and exemplars show their options; None where they show none.

        A wording that names the answers itself ("Answer yes or no.") wants them as they are, not their letters.
        """
        if not rows[0][GOLD] or not (self.variant.options or (self.variant.cot and self.shows_options)):
            return None
        options = [self._options(row, key)[0] for row in rows]
        said, placed = _words(self.wording.inputs), OPTIONS in self.wording.template.fields
        named = not placed and bool(self.labels) and any(_words(text) <= said for text in options[0])
        fit = [s for s in OPTION_STYLES if all(map(s.fits, options)) and not (named and s.marks)]
        return fit[pick(key, "options") % len(fit)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExactShots(VariantTemplate):
    """A variant whose number of exemplars is set: `EvalConfig.shots`."""

    number: int

    def _exact(self) -> int | None:
        return self.number


def final_answer(text: str, **unused: object) -> str:
    """SeqIO's postprocess_fn of reasoning: what stands behind the last "answer is", without its full stop."""
    _, found, tail = text.rpartition(FOUND_BEHIND)
    return (tail if found else text).strip().removesuffix(".")


def _before_cue(inputs: str, block: str, gap: str) -> str:
    head, last = cue(inputs)
    return f"{head}{gap}{block}\n{last}" if last else f"{head}{gap}{block}"


def _words(text: str) -> set[str]:
    return set(normalise(text).split())


def _sentence(text: str) -> str:
    """With a full stop, so that the conclusion stands apart."""
    text = text.strip()
    return text if not text or text[-1] in ".!?:;)" else f"{text}."
