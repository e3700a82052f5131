"""Test suites from their owners' files, prompted as their papers prompt: MMLU, BIG-Bench Hard, MGSM, TyDiQA.

Each has one split, "validation", so that nothing of it can be trained on. Exemplars are the owners' own, before every
question, in their order. Super-NaturalInstructions' test tasks: `itune.data.niv2_tasks`.
"""

from __future__ import annotations

import ast
import csv
import dataclasses
import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.registry import add_mixture, add_task
from itune.data.sources import RowSource
from itune.data.splits import text_key
from itune.data.templates import check_fields
from itune.errors import UserError

SPLIT = "validation"
LETTERS = "ABCD"
FIELDS = ("prompt", "answer", "options", "answers", "next")
Row = dict[str, str]
Rows = Callable[[], Iterator[Row]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuiteTemplate:
    """What stands before every question, the first exemplars, the question. shots: None for all that a row has."""

    shots: int | None = None
    id: str = "suite"

    @property
    def fields(self) -> tuple[str, ...]:
        return FIELDS

    def check(self, available: Iterable[str], where: str) -> None:
        check_fields(self, available, where)

    def with_shots(self, shots: int) -> SuiteTemplate:
        return dataclasses.replace(self, shots=shots)

    def render(self, row: Mapping[str, str], key: int = 0) -> tuple[str, str]:
        """Raises: UserError for more exemplars than the owners have."""
        parts = json.loads(row["prompt"])
        shots = len(parts["exemplars"]) if self.shots is None else self.shots
        if shots > len(parts["exemplars"]):
            raise UserError(f"EvalConfig.shots={shots}: the suite has {len(parts['exemplars'])} exemplars")
        shown = [parts["head"], *parts["exemplars"][:shots], parts["query"]]
        return "\n\n".join(filter(None, shown)), row["answer"]


TEMPLATE = SuiteTemplate()


def mmlu_tasks(folder: str | Path, *, name: str = "mmlu", shots: int = 5) -> list[str]:
    """Registers MMLU (Hendrycks et al. 2021): dev/<subject>_dev.csv and test/<subject>_test.csv, without headers.

    `<name>/<subject>`, and their mixture `<name>`. shots: of the subject's dev questions, in order. Answers are
    letters, to be ranked. Raises: UserError for a folder without them, or a row that is no question.
    """
    folder = Path(folder).expanduser()
    found = sorted((folder / "test").glob("*_test.csv"))
    names = []
    for path in found:
        subject = path.name.removesuffix("_test.csv")
        dev = folder / "dev" / f"{subject}_dev.csv"
        rows = functools.partial(_mmlu_rows, subject, path, dev, shots)
        names.append(_suite_task(f"{name}/{subject}", rows, (path, dev), "mmlu", "MIT", ("accuracy",)))
    return _together(name, names, folder, "test/<subject>_test.csv")


def _mmlu_rows(subject: str, path: Path, dev: Path, shots: int) -> Iterator[Row]:
    exemplars = [_mmlu_question(row, str(dev)) for row in _csv_rows(dev)[:shots]]
    head = f"The following are multiple choice questions (with answers) about {subject.replace('_', ' ')}."
    shown = [f"{question} {answer}" for question, answer in exemplars]
    for row in _csv_rows(path):
        question, answer = _mmlu_question(row, str(path))
        yield _row(_prompt(head, shown, question), answer, own=question, options=list(LETTERS))


def _mmlu_question(row: Sequence[str], where: str) -> tuple[str, str]:
    if len(row) != 6 or row[5].strip() not in tuple(LETTERS):
        raise UserError(f"{where}: a row is a question, four options and A, B, C or D; found {len(row)} columns")
    lines = [row[0].strip(), *(f"{letter}. {option}" for letter, option in zip(LETTERS, row[1:5], strict=True))]
    return "\n".join([*lines, "Answer:"]), row[5].strip()


def _csv_rows(path: Path) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def bbh_tasks(folder: str | Path, *, name: str = "bbh") -> list[str]:
    """Registers BIG-Bench Hard (Suzgun et al. 2022): bbh/<task>.json and cot-prompts/<task>.txt.

    `<name>/<task>` answers at once, `<name>/<task>_cot` after reasoning; mixtures `<name>` and `<name>_cot`. Both show
    the owners' three exemplars, the first without their reasoning. Raises: as `mmlu_tasks`.
    """
    folder = Path(folder).expanduser()
    direct: list[str] = []
    reasoned: list[str] = []
    for path in sorted((folder / "bbh").glob("*.json")):
        prompt = folder / "cot-prompts" / f"{path.stem}.txt"
        for cot, names in ((False, direct), (True, reasoned)):
            rows = functools.partial(_bbh_rows, path, prompt, cot)
            task = f"{name}/{path.stem}{'_cot' if cot else ''}"
            fn = said_answer if cot else before_next
            names.append(_suite_task(task, rows, (path, prompt), "bbh", "MIT", ("exact_match",), fn))
    if reasoned:
        add_mixture(f"{name}_cot", reasoned)
    return _together(name, direct, folder, "bbh/<task>.json") + reasoned


def _bbh_rows(path: Path, prompt: Path, cot: bool) -> Iterator[Row]:
    head, exemplars = bbh_exemplars(_text(prompt), str(prompt))
    shown = [f"Q: {question}\nA: {reasoning if cot else answer}" for question, reasoning, answer in exemplars]
    cue = "A: Let's think step by step." if cot else "A:"
    for example in _json(path).get("examples", ()):
        question, answer = str(example["input"]), str(example["target"])
        yield _row(_prompt(head, shown, f"Q: {question}\n{cue}"), answer, own=question)


def bbh_exemplars(text: str, where: str) -> tuple[str, list[tuple[str, str, str]]]:
    """(what the task is, [(question, reasoning with its answer, answer alone)]) of a file of cot-prompts.

    Raises: UserError if no exemplar is in it.
    """
    body = text.partition("-----\n")[2] or text  # a warning not to train on it stands before
    head, *parts = re.split(r"(?m)^Q: ", body)
    exemplars = []
    for part in parts:
        question, _, reply = part.partition("\nA: ")
        found = re.findall(r"the answer is (.+?)\.?\s*$", reply.strip())
        if found:
            exemplars.append((question.strip(), reply.strip(), found[-1]))
    if not exemplars:
        raise UserError(f"{where}: no exemplar of the form 'Q: ... A: ... the answer is ...' in it")
    return head.strip(), exemplars


def said_answer(text: str, *, is_target: bool = False, **_: Any) -> str:
    """SeqIO's postprocess_fn: "... So the answer is (B)." -> "(B)"; a text that says no answer stays as it is."""
    own = text if is_target else before_next(text)
    found = re.findall(r"the answer is\s+(.+?)\.?\s*(?:\n|$)", own)
    return found[-1] if found and not is_target else own


NEXT = re.compile(r"\n\s*\n(?:Q|Passage|Question): ")


def before_next(text: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> str:
    """SeqIO's postprocess_fn: a model that goes on after its answer asks itself the next question, which is cut off.

    What begins a question is that of the exemplars' layout, in a row's field "next" where it has one.
    """
    if is_target:
        return text
    begins = (example or {}).get("field/next", (example or {}).get("next")) or b""
    word = begins.decode() if isinstance(begins, bytes) else begins
    head = re.split(r"\n\s*" + re.escape(word), text)[0] if word else text
    return NEXT.split(head)[0]


def mgsm_tasks(folder: str | Path, *, name: str = "mgsm", shots: int = 8) -> list[str]:
    """Registers MGSM (Shi et al. 2022): mgsm_<language>.tsv of question and answer, and exemplars.py.

    `<name>/<language>`, and their mixture `<name>`; `<name>/<language>_direct` and `<name>_direct` without reasoning.
    shots: of the language's exemplars; what they put around a question is put around the query's. Raises: as
    `mmlu_tasks`.
    """
    folder = Path(folder).expanduser()
    names: list[str] = []
    direct: list[str] = []
    for path in sorted(folder.glob("mgsm_*.tsv")):
        language = path.stem.removeprefix("mgsm_")
        exemplars = folder / "exemplars.py"
        for cot, listed in ((True, names), (False, direct)):
            rows = functools.partial(_mgsm_rows, path, exemplars, language, shots, cot)
            task = f"{name}/{language}{'' if cot else '_direct'}"
            files, metrics = (path, exemplars), ("final_number",)
            listed.append(_suite_task(task, rows, files, "mgsm", "CC-BY-SA-4.0", metrics, before_next))
    if direct:
        add_mixture(f"{name}_direct", direct)
    return _together(name, names, folder, "mgsm_<language>.tsv") + direct


def _mgsm_rows(path: Path, source: Path, language: str, shots: int, cot: bool) -> Iterator[Row]:
    exemplars = mgsm_exemplars(source).get(language)
    if not exemplars:
        raise UserError(f"{source}: MGSM_EXEMPLARS has none of {language!r}")
    chosen = exemplars[:shots]
    # "Question: Roger has ..." and "Step-by-Step Answer: Roger ...": the language's own words before the colon, and
    # whether a blank follows it.
    ask, reply = (re.match(r"[^:：]*[:：] *", one) for one in chosen[0][:2])
    if ask is None or reply is None:
        raise UserError(f"{source}: the exemplars of {language!r} do not begin with a word and a colon")
    shown = [f"{asked}\n{said if cot else reply[0] + number}" for asked, said, number in chosen]
    for line in _text(path).splitlines():
        question, tab, answer = line.partition("\t")
        if not tab:
            raise UserError(f"{path}: a line is a question, a tab and an answer; found {line[:40]!r}")
        prompt = _prompt("", shown, f"{ask[0]}{question}\n{reply[0].rstrip()}")
        yield _row(prompt, answer.strip(), own=question, following=ask[0].rstrip())


def mgsm_exemplars(path: Path) -> dict[str, list[tuple[str, str, str]]]:
    """{language: [(question, answer, its number)]} of the owners' Python file, read and not run: MGSM_EXEMPLARS, and
    EXEMPLAR_NUMBER_ANSWERS, which all languages share. Raises: UserError."""
    names = ("MGSM_EXEMPLARS", "EXEMPLAR_NUMBER_ANSWERS")
    try:
        said = {
            node.targets[0].id: ast.literal_eval(node.value)
            for node in ast.parse(_text(path)).body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in names
        }
        for name in names:
            if name not in said:
                raise UserError(f"{path}: has no {name}")
        texts, numbers = (said[name] for name in names)
        return {
            language: [(found[key]["q"], found[key]["a"], str(numbers[int(key) - 1])) for key in sorted(found, key=int)]
            for language, found in texts.items()
        }
    except (SyntaxError, ValueError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: {names[0]} cannot be read ({type(error).__name__}: {error})") from None


def tydiqa_tasks(folder: str | Path, *, name: str = "tydiqa", shots: int = 1) -> list[str]:
    """Registers TyDiQA's gold passage task (Clark et al. 2020): tydiqa-goldp-v1.1-train.json and
    tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-<language>.json, in SQuAD's layout.

    `<name>/<language>`, and their mixture `<name>`. shots: training questions of the language with the shortest
    passages. Raises: as `mmlu_tasks`.
    """
    folder = Path(folder).expanduser()
    train = folder / "tydiqa-goldp-v1.1-train.json"
    names = []
    for path in sorted((folder / "tydiqa-goldp-v1.1-dev").glob("tydiqa-goldp-dev-*.json")):
        language = path.stem.removeprefix("tydiqa-goldp-dev-")
        rows = functools.partial(_tydiqa_rows, path, train, language, shots)
        metrics = ("token_f1", "exact_match")
        names.append(
            _suite_task(f"{name}/{language}", rows, (path, train), "tydiqa", "Apache-2.0", metrics, all_answers)
        )
    return _together(name, names, folder, "tydiqa-goldp-v1.1-dev/tydiqa-goldp-dev-<language>.json")


def _tydiqa_rows(path: Path, train: Path, language: str, shots: int) -> Iterator[Row]:
    lay = "Passage: {}\n\nQuestion: {}\nAnswer:"
    own = [found for found in _squad(train) if found[0].startswith(f"{language}-")] if shots else []
    if len(own) < shots:
        raise UserError(f"{train}: has {len(own)} questions whose id begins with {language!r}, and {shots} are shown")
    own.sort(key=lambda found: (len(found[1]), found[0]))
    shown = [f"{lay.format(passage, question)} {answers[0]}" for _, passage, question, answers in own[:shots]]
    for key, passage, question, answers in _squad(path):
        prompt = _prompt("", shown, lay.format(passage, question))
        yield _row(prompt, answers[0], own=key, answers=answers)


def _squad(path: Path) -> Iterator[tuple[str, str, str, list[str]]]:
    """(id, passage, question, answers)."""
    try:
        for article in _json(path)["data"]:
            for paragraph in article["paragraphs"]:
                for question in paragraph["qas"]:
                    answers = [answer["text"] for answer in question["answers"]]
                    yield question["id"], paragraph["context"], question["question"], answers
    except (KeyError, TypeError, IndexError) as error:
        raise UserError(f"{path}: not in SQuAD's layout ({type(error).__name__}: {error})") from None


def all_answers(text: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> Any:
    """SeqIO's postprocess_fn: a target becomes the list of all right answers."""
    coded = (example or {}).get("field/answers", (example or {}).get("answers"))
    return json.loads(coded) if is_target and coded else before_next(text, is_target=is_target)


def _prompt(head: str, exemplars: Sequence[str], query: str) -> str:
    """A row's prompt in its parts: see `SuiteTemplate`."""
    return json.dumps({"head": head, "exemplars": list(exemplars), "query": query}, ensure_ascii=False)


def _row(
    prompt: str,
    answer: str,
    *,
    own: str,
    options: Sequence[str] = (),
    answers: Sequence[str] = (),
    following: str = "",
) -> Row:
    """own: what makes the question what it is, for its id.  following: what begins the next one."""
    listed = {"options": options, "answers": answers or (answer,)}
    coded = {name: json.dumps(list(values), ensure_ascii=False) for name, values in listed.items()}
    return {"id": text_key(own, answer), "prompt": prompt, "answer": answer, "next": following} | coded


def _suite_task(
    name: str,
    rows: Rows,
    files: Sequence[Path],
    identity: str,
    licence: str,
    metrics: Sequence[str],
    postprocess_fn: Callable[..., Any] | None = None,
) -> str:
    source = RowSource(functools.partial(_unique, rows=rows), (SPLIT,), FIELDS, "1", files=files)
    add_task(
        name,
        source=source,
        templates=(TEMPLATE,),
        cluster=identity,
        licence=licence,
        identity=identity,
        metrics=metrics,
        postprocess_fn=postprocess_fn,
        truncate_side="left",  # the question stands at the end
        description=f"{identity}'s test questions, prompted as in its paper",
    )
    return name


def _unique(split: str, rows: Rows) -> Iterator[Row]:
    """The suites repeat a few questions; an id is a question's own."""
    seen = set()
    for row in rows():
        if row["id"] not in seen:
            seen.add(row["id"])
            yield row


def _together(name: str, names: list[str], folder: Path, expected: str) -> list[str]:
    if not names:
        raise UserError(f"{folder}: no {expected} in it")
    add_mixture(name, names)
    return names


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(found).__name__}")
    return found
