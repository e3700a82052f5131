"""How a task of Super-NaturalInstructions is put to a model: definition, exemplars, query. Imports no SeqIO."""

from __future__ import annotations

import dataclasses
import json
import string
from collections.abc import Iterable, Mapping, Sequence

from itune.data.keyed import key64
from itune.data.niv2_files import read_prompts
from itune.data.splits import normalise
from itune.data.templates import Room, Template, check_fields
from itune.errors import UserError

_PROMPT_FIELDS = ("definition", "examples", "input")
_EXAMPLE_FIELDS = ("number", "input", "output", "explanation")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Niv2Layout:
    """The wording of a prompt. Fields stand in braces as in `Template`.

    Attributes:
      id: names it in prepared data and reports.
      prompt: of {definition}, {examples} (each followed by a blank line; nothing without any) and {input}.
      example: of {number} (from 1), {input}, {output} and {explanation}; an example without an explanation is passed
        over where that is used.
      shots: how many of the task's positive examples are shown, where it has so many besides the query.
      in_order: the first of them as they stand in the file; else which and in what order is keyed by the row.
      full_stops: definition, inputs and the examples' outputs end in one where they end in no punctuation.
    """

    id: str
    prompt: str
    example: str = "Input: {input}\nOutput: {output}"
    shots: int = 0
    in_order: bool = False
    full_stops: bool = False

    def __post_init__(self) -> None:
        if self.shots < 0:
            raise UserError(f"layout {self.id!r}: shots={self.shots} must be at least 0")
        where = f"layout {self.id!r}"
        self.prompt_template.check((*_PROMPT_FIELDS, "output"), where)
        self.example_template.check(_EXAMPLE_FIELDS, where)
        if self.shots and "examples" not in self.prompt_template.fields:
            raise UserError(f"{where}: shots={self.shots}, but its prompt has no {{examples}}")

    @property
    def prompt_template(self) -> Template:
        return Template(self.id, self.prompt, "{output}")

    @property
    def example_template(self) -> Template:
        return Template(self.id, self.example, "")


_BRIEF = "{definition}\n\n{examples}Input: {input}\nOutput:"
_SPELT = "Task: {definition}\n\n{examples}Input: {input}\nOutput:"
_NUMBERED = "Example {number}\nInput: {input}\nOutput: {output}"

# As FLAN 2022 has it: the definition with no or two examples, half each, with or without explanations.
LAYOUTS = (
    Niv2Layout(id="definition", prompt=_BRIEF),
    Niv2Layout(id="two_shot", prompt=_BRIEF, shots=2),
    Niv2Layout(id="two_shot_explained", prompt=_SPELT, example=_NUMBERED + "\nWhy: {explanation}", shots=2),
    Niv2Layout(id="definition_labelled", prompt="Definition: {definition}\n\nInput: {input}\nOutput:"),
)
# What Tk-Instruct is evaluated with (Wang et al. 2022): the definition and the first two examples, in its words.
OFFICIAL = Niv2Layout(
    id="first_two",
    prompt="Definition: {definition}\n\n{examples}Now complete the following example -\nInput: {input}\nOutput:",
    example=" Positive Example {number} -\nInput: {input}\n Output: {output}",
    shots=2,
    in_order=True,
    full_stops=True,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Niv2Template:
    """A layout for the task in a file, whose definition and examples are read when the first row is rendered.

    room: what a prompt may take; of the examples only so many are shown as there is room for, so that none is cut.
    """

    layout: Niv2Layout
    path: str
    room: Room | None = None

    @property
    def id(self) -> str:
        return self.layout.id

    @property
    def fields(self) -> tuple[str, ...]:
        return ("input", "references")

    def check(self, available: Iterable[str], where: str) -> None:
        """UserError unless the rows have its fields; `where` names the task."""
        check_fields(self, available, where)

    def within(self, room: Room) -> Niv2Template:
        """The template of a model whose prompts have so much room."""
        return dataclasses.replace(self, room=room) if self.layout.shots else self

    def with_shots(self, shots: int) -> Niv2Template:
        """With the first `shots` of the examples, where the task has so many."""
        layout = self.layout if self.layout.in_order else dataclasses.replace(OFFICIAL, id=self.layout.id)
        return dataclasses.replace(self, layout=dataclasses.replace(layout, shots=shots))

    def render(self, row: Mapping[str, str], key: int = 0) -> tuple[str, str]:
        """Definition, examples and input -> one of the outputs."""
        prompts = read_prompts(self.path)
        outputs: list[str] = json.loads(row["references"])
        shown = [self._example(n, e) + "\n\n" for n, e in self._examples(prompts.examples, row, key)]
        which = 0 if self.layout.in_order else _pick(key, "definition") % len(prompts.definitions)
        texts = {
            "definition": self._ended(prompts.definitions[which]),
            "input": self._ended(row["input"].strip()),
            "output": outputs[_pick(key, "output") % len(outputs)],
        }
        while True:
            sides = self.layout.prompt_template.render(texts | {"examples": "".join(shown)})
            if not shown or self.room is None or self.room.has(sides[0]):
                return sides
            shown.pop()

    def _examples(
        self, pool: Sequence[Mapping[str, str]], row: Mapping[str, str], key: int
    ) -> Iterable[tuple[int, Mapping[str, str]]]:
        explained = "explanation" in self.layout.example_template.fields
        query = _same(row["input"])
        usable = [e for e in pool if _same(e["input"]) != query and (e["explanation"].strip() or not explained)]
        if not self.layout.in_order:
            usable = [usable[i] for i in sorted(range(len(usable)), key=lambda i: _pick(key, f"example {i}"))]
        return enumerate(usable[: self.layout.shots], 1)

    def _example(self, number: int, example: Mapping[str, str]) -> str:
        texts = {name: text.strip() for name, text in example.items()}
        texts |= {name: self._ended(texts[name]) for name in ("input", "output")}
        return self.layout.example_template.render({"number": str(number)} | texts)[0]

    def _ended(self, text: str) -> str:
        return text + "." if self.layout.full_stops and text[-1:] not in string.punctuation else text


def _pick(key: int, what: str) -> int:
    return key64("niv2", key, what)


def _same(text: str) -> str:
    return normalise(text) or text.strip()
