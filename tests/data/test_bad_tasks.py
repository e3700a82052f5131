"""A table of rows, tasks and mixtures that users get wrong: each is one line that names which, and the nearest name.

Three go through the command. Files that users get wrong: test_bad_inputs.py.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import seqio
import tensorflow as tf

from itune.data import (
    JsonSource,
    RowSource,
    Template,
    add_mixture,
    add_task,
    alpaca_task,
    oasst_task,
    openai_task,
    rate_by_examples,
    registry,
)
from itune.data.config import DataConfig
from itune.errors import UserError
from tests.data.bad_inputs import Case, check
from tests.data.test_tf_sources import ROWS, write
from tests.data.toy import Toy
from tests.world import World


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))
    yield


def source(folder: Path, rows: list[Any], **changes: Any) -> JsonSource:
    path = folder / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: Mapping[str, Any] = {
        "fields": ("q", "a"),
        "split_by": ("q",),
        "identity": "x",
        "validation_fraction": 0.0,
    }
    return JsonSource(path, **{**settings, **changes})


def rows_of(*rows: Any, split: str = "train", **changes: Any) -> Callable[[Path], Any]:
    return lambda folder: source(folder, list(rows), **changes).checked_rows(split)


def task(name: str = "sums", template: str = "{q}", **changes: Any) -> Any:
    rows = RowSource(lambda split: [{"id": "1", "q": "x", "a": "y"}], fields=("q", "a"))
    rights = {"licence": "CC0-1.0", "cluster": "sums", "identity": "sums"}
    return add_task(name, **{"source": rows, "templates": [Template("t", template, "{a}")], **rights, **changes})


def twice(folder: Path) -> None:
    task("sums/one")
    task("sums/one")


def mixed(*members: Any) -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        task("sums/one")
        add_mixture("mix", list(members))
        registry.mixture_info("mix")

    return make


def cyclic(folder: Path) -> None:
    """SeqIO looks members up when a mixture is made, so that it takes some doing."""
    task("sums/one")
    inner = add_mixture("inner", ["sums/one"])
    inner._sub_mixtures.append(add_mixture("outer", ["inner"]))
    registry.mixture_info("outer")


def raising(task: seqio.Task) -> float:
    raise KeyError("no rate\nfor this")


def no_counts(folder: Path) -> None:
    path = write(folder / "x.tfrecord", ROWS)
    text = {"q": tf.io.FixedLenFeature([], tf.string)}
    task(
        "counted", source=seqio.TFExampleDataSource({"train": str(path)}, text), templates=[Template("t", "{q}", "{q}")]
    )
    add_mixture("mix", [("counted", rate_by_examples(cap=10))])
    registry.mixture_info("mix")


def conversation(*turns: Any, key: str = "messages") -> Callable[[Path], Any]:
    def make(folder: Path) -> None:
        (folder / "x.jsonl").write_text(json.dumps({key: list(turns)}) + "\n")
        openai_task("talk", folder / "x.jsonl", licence="x", validation_fraction=0.0).source.checked_rows("train")

    return make


def prepares(module: str, **request: Any) -> Callable[[Path], Any]:
    """Prepares a task module in this process."""

    def make(folder: Path) -> None:
        toy = Toy(folder)
        toy.write(module)
        toy.prepare(**{"mixture": "sums/one", **request})

    return make


def blank(folder: Path) -> None:
    (folder / "x.jsonl").write_text('{"prompt": "x", "completion": " "}')
    prepares(MODULE.format(path=folder / "x.jsonl"))(folder)


MODULE = """
    from itune.data import prompt_completion_task
    prompt_completion_task("sums/one", "{path}", licence="CC0-1.0", sensitive=True)
"""

ROWS_AND_TASKS = [
    Case(
        "a wrong column",
        rows_of({"question": "x", "a": "y"}, fields=("qestion", "a"), split_by=("a",)),
        "FOLDER/x.jsonl:1: no 'qestion' in this record. Did you mean 'question'\\?",
    ),
    Case(
        "a list for text",
        rows_of({"q": "x", "a": "y"}, {"q": ["x"], "a": "y"}),
        "FOLDER/x.jsonl:2: 'q' is a list, must be text",
    ),
    Case(
        "half a surrogate pair",
        rows_of({"q": "x", "a": "\ud83d"}),
        "FOLDER/x.jsonl:1: 'a' holds half of a surrogate pair; mend the file's escapes",
    ),
    Case(
        "an id twice",
        rows_of({"q": "x", "a": "y", "n": 1}, {"q": "z", "a": "y", "n": 1}, id_key="n"),
        "FOLDER/x.jsonl:2: id '1' was used before, for other text",
    ),
    Case(
        "an id twice from Python",
        lambda folder: RowSource(lambda s: [{"id": "1", "q": "x"}] * 2, fields=("q",)).checked_rows("train"),
        "row 2 of 'train': id '1' comes twice; ids key the order of the data",
    ),
    Case(
        "an unknown split",
        rows_of({"q": "x", "a": "y"}, split="validaton"),
        "no split 'validaton' here. Did you mean 'validation'\\? There are train, validation.",
    ),
    Case(
        "no splits",
        lambda folder: JsonSource({}, fields=("q",), split_by=("q",), identity="x"),
        "no splits: expected {split: path}, such as .*",
    ),
    Case("a fraction", rows_of(validation_fraction=1.0), "FOLDER/x.jsonl: validation_fraction=1.0 must be in .*"),
    Case("an unknown field", rows_of(split_by=("question",)), "FOLDER/x.jsonl: no field 'question' among q, a."),
    Case("a task twice", twice, "task 'sums/one' is registered already; give this one another name"),
    Case("a name", lambda folder: task("sums one"), "task 'sums one': a name has letters, digits and .*"),
    Case("no licence", lambda folder: task(licence=" "), "task 'sums': licence must say something"),
    Case(
        "a template's field",
        lambda folder: task(template="{qq} ?"),
        "task 'sums': template 't' uses field {qq}, which the source lacks. Did you mean 'q'\\?",
    ),
    Case(
        "a template's brace",
        lambda folder: task(template="{q"),
        "template 't', inputs: expected '}' before end of string .*",
    ),
    Case("no templates", lambda folder: task(templates=[]), "task 'sums' needs at least one template"),
    Case(
        "an unknown metric",
        lambda folder: task(metrics=["acuracy"]),
        "task 'sums': unknown metric 'acuracy'. Did you mean 'accuracy'\\?",
    ),
    Case(
        "an unknown policy",
        lambda folder: task(overlong="truncate"),
        "task 'sums': overlong='truncate' must be one of .*Did you mean 'truncate_inputs'\\?",
    ),
    Case(
        "an unknown task in a mixture",
        mixed("sums/on"),
        "mixture 'mix': no task or mixture is called 'sums/on'. Did you mean 'sums/one'\\?",
    ),
    Case("a task twice in a mixture", mixed("sums/one", "sums/one"), "mixture 'mix' lists 'sums/one' twice"),
    Case("an empty mixture", mixed(), "mixture 'mix' has no tasks"),
    Case("a mixture of itself", mixed("sums/one", "mix"), "mixture 'mix' lists itself"),
    Case("a cyclic mixture", cyclic, "mixture 'outer' holds itself, through the mixtures in it"),
    Case("a rate of 0", mixed(("sums/one", 0)), "mixture 'mix': rate of 'sums/one' is 0, must be a number above 0"),
    Case(
        "a rate of NaN",
        mixed(("sums/one", float("nan"))),
        "mixture 'mix': rate of 'sums/one' is nan, must be a number above 0",
    ),
    Case(
        "a negative rate",
        mixed(("sums/one", -1.5)),
        "mixture 'mix': rate of 'sums/one' is -1.5, must be a number above 0",
    ),
    Case(
        "a rate in words",
        mixed(("sums/one", "high")),
        "mixture 'mix': rate of 'sums/one' is 'high', must be a number above 0",
    ),
    Case(
        "a callable rate of NaN",
        mixed(("sums/one", lambda task: float("nan"))),
        "mixture 'mix': rate of 'sums/one' is nan, must be a number above 0",
    ),
    Case(
        "a callable rate that raises",
        mixed(("sums/one", raising)),
        "mixture 'mix': the rate of 'sums/one' cannot be worked out: KeyError: .*no rate.*for this.*",
    ),
    Case(
        "a rate of unknown size",
        no_counts,
        "mixture 'mix': the rate of 'counted' cannot be worked out: its source does not say how many .*",
    ),
    Case(
        "a conversation of nothing",
        conversation(),
        "FOLDER/x.jsonl: no turn to learn from; left out: 1 conversations without .*",
    ),
    Case(
        "a role",
        conversation({"role": "usr", "content": "hi"}),
        r"FOLDER/x.jsonl:1: messages\[0\]: role is 'usr', must be one of .* Did you mean 'user'\?",
    ),
    Case(
        "another key",
        conversation({"role": "user", "content": "hi"}, key="mesages"),
        "FOLDER/x.jsonl:1: no 'messages' in this record. Did you mean 'mesages'\\?",
    ),
    Case(
        "paths of trees",
        lambda folder: oasst_task("trees", folder, licence="x", paths="bset"),
        "task 'trees': paths='bset' must be one of .*Did you mean 'best'\\?",
    ),
    Case(
        "no path for a task",
        lambda folder: alpaca_task("a", "", licence="x").source.checked_rows("train"),
        "an empty path: name a file, or a pattern of files",
    ),
]

PREPARED = [
    Case(
        "a task's missing file",
        prepares(MODULE.format(path="absent.jsonl")),
        "task 'sums/one': absent.jsonl: no such file.",
    ),
    Case("only blank answers", blank, "task 'sums/one', split 'train': it has no examples"),
    Case(
        "a split that the task lacks",
        prepares(MODULE.format(path=__file__), split="test"),
        "task 'sums/one' is to be trained on, split 'test', but it has only 'train', 'validation'",
    ),
    Case(
        "a mixture unknown",
        prepares(MODULE.format(path=__file__), mixture="sums/oen"),
        "no task or mixture is called 'sums/oen'. Did you mean 'sums/one'\\?",
    ),
    Case(
        "a module unknown",
        prepares(MODULE, modules=("user_taks",)),
        "DataConfig.modules: there is no module 'user_taks' in FOLDER or installed",
    ),
    Case(
        "a module that raises",
        prepares("raise KeyError('first\\\\nsecond')"),
        "DataConfig.modules: importing 'user_tasks' fails: KeyError: .*",
    ),
    Case("no variants", lambda folder: DataConfig(mixture="x", variants=0), "DataConfig.variants=0 must be at least 1"),
]


@pytest.mark.parametrize("case", ROWS_AND_TASKS, ids=lambda case: case.name)
def test_bad_rows_tasks_and_mixtures(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@pytest.mark.parametrize("case", PREPARED, ids=lambda case: case.name)
def test_bad_inputs_to_prepare(case: Case, tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # A config's own error is gin's to spell: itune.config turns it into a UserError with the binding.
    check(case, tmp_path, (ValueError,) if case.name == "no variants" else (UserError,))


# Through the command


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("bad_inputs"))


@pytest.mark.parametrize(
    ("tasks", "binding", "message"),
    [
        ("", "DataConfig.variants=0", r"itune: error: .*DataConfig.variants=0 must be at least 1.*"),
        (
            'prompt_completion_task("toy", "notes.jsonl.gz", licence="CC0-1.0")',
            "DataConfig.variants=1",
            "itune: error: task 'toy': notes.jsonl.gz: cannot be read: Compressed file ended before .*",
        ),
        (
            'prompt_completion_task("one", "notes.jsonl.gz", licence="CC0-1.0")\n'
            'add_mixture("toy", [("one", lambda task: 1 / 0)])',
            "DataConfig.variants=1",
            "itune: error: mixture 'toy': the rate of 'one' cannot be worked out: ZeroDivisionError: division by zero",
        ),
    ],
    ids=["a setting", "a file", "a rate"],
)
def test_the_command_ends_with_status_2_and_one_line(world: World, tasks: str, binding: str, message: str) -> None:
    code = f"from itune.data import add_mixture, prompt_completion_task\n{tasks}\n"
    (world.folder / "toy_tasks.py").write_text(code)
    (world.folder / "notes.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "x", "completion": "y"}\n')[:-9])
    flags = (f"--gin.{binding}", "--gin.EvalConfig.held_out=()", f"--workdir={world.folder / 'run'}")
    process = world.start(f"--gin_file={world.recipe}", *flags, module="itune.prepare")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2 and out == ""
    said = [line for line in err.splitlines() if not line.startswith(("preparing ", "prepare: "))]
    assert len(said) == 1 and re.fullmatch(message, said[0]), err
