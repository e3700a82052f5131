"""Exemplars: which rows stand before a question, and how they are laid out. Imports no SeqIO."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

from itune.data.keyed import key64
from itune.data.library.styles import CUED, SHOT_STYLES, tables_digest
from itune.data.splits import normalise
from itune.data.templates import Room, RowTemplate
from itune.errors import UserError

Row = Mapping[str, str]

MOST_SHOTS = 5
# Of all that a rendering is made with beside the row and its wording; raise the number when the code here changes it.
LAYOUT = f"1-{tables_digest()}"
LONGEST_CUE = 60  # characters of a last line such as "Answer (yes or no):"
_TRIES = 8  # draws for an exemplar before the row goes without

_POOLS: dict[str, Callable[[], Sequence[Row]]] = {}


def set_pool(family: str, rows: Callable[[], Sequence[Row]]) -> None:
    """Where the exemplars of a data set come from: its training rows, read when first asked for."""
    _POOLS[family] = rows


def exemplar_pool(family: str) -> Sequence[Row]:
    """The training rows of a data set. Raises: UserError where no such data set is registered."""
    if family not in _POOLS:
        raise UserError(f"no data set {family!r} is registered, whose rows could be exemplars")
    return _POOLS[family]()


def draw(
    pool: Sequence[Row],
    row: Row,
    key: int,
    *,
    most: int,
    question: Callable[[Row], str | None],
    exact: int | None = None,
) -> list[Row]:
    """0 to `most` rows of the pool, or `exact`, none that asks what the query or another of them asks.

    question: what a row asks, white space, case and punctuation aside; None for a row that can't be an exemplar.
    """
    wanted = pick(key, "number of shots") % (most + 1) if exact is None else exact
    found: list[Row] = []
    taken = {row["id"], question(row)}
    for n in range(wanted * _TRIES if pool else 0):
        other = pool[pick(key, f"exemplar {n}") % len(pool)]
        asked = question(other)
        if asked is not None and not {other["id"], asked} & taken:
            taken |= {other["id"], asked}
            found.append(other)
            if len(found) == wanted:
                break
    return found


def lay_out(exemplars: Sequence[tuple[str, str]], inputs: str, key: int, room: Room | None) -> str:
    """The prompt: as many exemplars, (inputs, targets), as there is room for, in one of the styles, and the query."""
    shown = list(exemplars)
    while shown and room is not None and not room.has(_with(shown, inputs, key)):
        shown.pop()
    return _with(shown, inputs, key)


def _with(exemplars: Sequence[tuple[str, str]], inputs: str, key: int) -> str:
    if not exemplars:
        return inputs
    styles = [s for s in SHOT_STYLES if s.id in CUED] if cue(inputs)[1] else SHOT_STYLES
    style = styles[pick(key, "shots") % len(styles)]
    shown = [
        style.exemplar.format(number=n, inputs=asked, targets=answered)
        for n, (asked, answered) in enumerate(exemplars, 1)
    ]
    query = style.query.format(number=len(exemplars) + 1, inputs=inputs)
    return style.opening + style.between.join([*shown, query])


def cue(inputs: str) -> tuple[str, str]:
    """ "Q: Why?\\nAnswer:" -> ("Q: Why?", "Answer:"); no cue where the last line is longer or ends otherwise."""
    head, newline, last = inputs.rpartition("\n")
    return (head, last) if newline and last.endswith(":") and len(last) <= LONGEST_CUE else (inputs, "")


def pick(key: int, what: str) -> int:
    return key64("library", key, what)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FewShot:
    """Any other template with exemplars before it, rendered by the same template, as `add_task` takes templates.

    family: whose training rows they are, see `set_pool`.  most_shots, room, layout: as in `VariantTemplate`.
    """

    template: RowTemplate
    family: str
    most_shots: int = MOST_SHOTS
    room: Room | None = None
    layout: str = LAYOUT

    @property
    def id(self) -> str:
        return self.template.id

    @property
    def fields(self) -> tuple[str, ...]:
        return self.template.fields

    def check(self, available: Iterable[str], where: str) -> None:
        self.template.check(available, where)

    def within(self, room: Room) -> FewShot:
        """The template of a model whose prompts have so much room."""
        return dataclasses.replace(self, room=room)

    def render(self, row: Row, key: int = 0) -> tuple[str, str] | None:
        """(inputs, targets); None for a row that the template does not render."""
        sides = self.template.render(row, key)
        if sides is None:
            return None
        # What a row asks is what this rendering makes of it: a prompt may show little of the row.
        asked = functools.partial(self._question, key=key)
        others = draw(exemplar_pool(self.family), row, key, most=self.most_shots, question=asked)
        exemplars = [found for other in others if (found := self.template.render(other, key)) is not None]
        return lay_out(exemplars, sides[0], key, self.room), sides[1]

    def _question(self, row: Row, key: int) -> str | None:
        sides = self.template.render(row, key)
        return None if sides is None else normalise(sides[0]) or sides[0]
