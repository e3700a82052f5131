"""Super-NaturalInstructions in its owners' layout: what registers, from how little; prompts; the paper's protocol."""

from __future__ import annotations

import itertools
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest
import seqio

from itune.data import Niv2Layout, niv2_tasks, registry
from itune.data.metrics import METRICS
from itune.data.niv2 import references
from itune.data.niv2_files import read_head
from itune.data.niv2_prompts import LAYOUTS, OFFICIAL
from itune.data.templates import RenderContext, Room, render_row
from itune.errors import UserError
from itune.evaluation.metric_worker import run_task
from tests.data.toy import Toy, records_of, split_of

SENTIMENT, COUNTING, ASKING, OLD = (
    "task001_movies-short_classification",
    "task002_counting",
    "task003_movies_question_generation",
    "task004_old",
)


@pytest.fixture(autouse=True)
def _own_registries(registries: None) -> None:
    pass


def task_json(number: int = 1, instances: int = 6, **changes: Any) -> dict[str, Any]:
    """A task file's object, its keys in the owners' order."""
    task = {
        "Contributors": ["A. Person"],
        "Source": ["movies"],
        "URL": ["https://example.org"],
        "Categories": ["Sentiment Analysis"],
        "Reasoning": ["Commonsense Reasoning"],
        "Definition": ["Say whether the review likes the film."],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Reviews"],
        "Positive Examples": [
            {"input": "A joy.", "output": "yes", "explanation": "Joy is good."},
            {"input": "Dull.", "output": "no", "explanation": "Dull is bad."},
            {"input": "Superb!", "output": "yes", "explanation": ""},
        ],
        "Negative Examples": [{"input": "Fine.", "output": "no", "explanation": "It is liked."}],
        "Instances": [
            {"id": f"task{number:03}-{i:032x}", "input": f"Review {i}.", "output": ["yes", "Yes, it does."]}
            for i in range(instances)
        ],
        "Instance License": ["CC BY 4.0"],
    }
    return {key: value for key, value in (task | changes).items() if value is not None}


def write(folder: Path, name: str, task: Any) -> Path:
    path = folder / "tasks" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(task, indent=4, ensure_ascii=False), encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, SENTIMENT, task_json(1))
    write(tmp_path, COUNTING, task_json(2, Source=["synthetic"], Categories=["Program Execution"]))
    write(tmp_path, ASKING, task_json(3, instances=130, Categories=["Question Generation", "Other"]))
    write(tmp_path, OLD, task_json(4, Definition="Old.", Source=[], **{"Instance License": None}))
    lists = {"train": [SENTIMENT, COUNTING], "test": [ASKING], "excluded": [OLD, "task999_elsewhere"]}
    for use, names in lists.items():
        path = tmp_path / "splits" / "default" / f"{use}_tasks.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return tmp_path


def rows_of(task: str, split: str = "train") -> list[dict[str, str]]:
    return registry.get(task).source.checked_rows(split)


# Registering


def test_what_registers_where(folder: Path) -> None:
    groups = niv2_tasks(folder)
    train = ["niv2/task001_movies_short_classification", "niv2/task002_counting"]
    asking, old = "niv2/task003_movies_question_generation", "niv2/task004_old"
    assert groups == {"train": train, "test": [asking], "excluded": [old]}
    assert [(i.name, rate) for i, rate in registry.mixture_info("niv2_train")] == [(name, 1.0) for name in train]
    assert [i.name for i, _ in registry.mixture_info("niv2_test")] == [asking]
    facts = {n: (i.cluster, i.identity, i.licence) for n in (*train, asking) for i in [registry.info(n)]}
    assert facts == {
        train[0]: ("sentiment_analysis", "movies", "CC BY 4.0"),
        train[1]: ("program_execution", "niv2/task002_counting", "CC BY 4.0"),
        asking: ("question_generation", "movies", "CC BY 4.0"),
    }
    # What is tested cannot be trained on, and what is excluded is not there.
    assert tuple(registry.get(asking).splits) == ("validation",) and tuple(registry.get(train[0]).splits) == ("train",)
    with pytest.raises(
        UserError, match="'niv2/task004_old' is not available: it is excluded from training and testing"
    ):
        registry.get(old)


def test_names_of_ones_own(folder: Path) -> None:
    groups = niv2_tasks(
        folder,
        splits=None,
        prefix="sni",
        clusters={"Sentiment Analysis": "sentiment"},
        identities={"movies": "imdb"},
        validation_fraction=0.5,
        rate=registry.rate_by_examples(cap=4),
    )
    assert [len(group) for group in groups.values()] == [4, 0, 0]
    infos = {i.name: (i, rate) for i, rate in registry.mixture_info("sni_train")}
    sentiment, rate = infos["sni/task001_movies_short_classification"]
    assert (sentiment.cluster, sentiment.identity) == ("sentiment", "imdb")
    old, _ = infos["sni/task004_old"]
    assert (old.identity, old.licence, registry.info("sni/task002_counting").identity) == (
        "sni/task004_old",
        "unknown",
        "sni/task002_counting",
    )
    train, held = rows_of(sentiment.name), rows_of(sentiment.name, "validation")
    assert rate == min(4, len(train)) and len(train) + len(held) == 6 and train and held
    with pytest.raises(UserError, match="no task is of the category 'Sentiment'"):
        niv2_tasks(folder, prefix="x", clusters={"Sentiment": "s"})


def test_registering_reads_the_ends_of_files_only(folder: Path) -> None:
    """Instances that are no JSON do not matter before they are asked for."""
    path = folder / "tasks" / f"{SENTIMENT}.json"
    text = json.dumps(task_json(instances=2000), indent=4)
    middle = text.index("},", len(text) // 2) + 2
    path.write_text(text[:middle] + " } broken [ " + text[middle:], encoding="utf-8")
    assert path.stat().st_size > 100_000
    assert read_head(path) == {
        "Categories": ["Sentiment Analysis"],
        "Source": ["movies"],
        "Instance License": ["CC BY 4.0"],
    }
    niv2_tasks(folder)
    with pytest.raises(UserError, match=rf"{SENTIMENT}.json:\d+: not JSON"):
        rows_of("niv2/task001_movies_short_classification")


def test_a_head_in_another_order_is_found_by_reading_all(tmp_path: Path) -> None:
    task = task_json(instances=300)
    backwards = dict(reversed(task.items()))
    assert read_head(write(tmp_path, "task001_a", backwards))["Source"] == ["movies"]
    # What looks like a licence inside a text is none.
    text = 'He said: "Instance License": ["MIT"]'
    path = write(tmp_path, "task001_b", task_json(Instances=[{"id": "1", "input": text, "output": [text]}]))
    assert read_head(path)["Instance License"] == ["CC BY 4.0"]
    path = write(tmp_path, "task001_c", task_json(Source="movies", Categories="Sentiment Analysis"))
    assert read_head(path)["Categories"] == ["Sentiment Analysis"]


# Rows


def test_rows_keep_all_references(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    instances = [
        {"id": "a", "input": "Ä?", "output": ["eins", "zwei", "eins"]},
        {"id": "a", "input": "Ä?", "output": ["eins", "zwei"]},
        {"id": "b", "input": " ", "output": ["x"]},
        {"id": "c", "input": "x", "output": [" "]},
        {"input": "no id", "output": "as text"},
    ]
    write(folder, SENTIMENT, task_json(Instances=instances))
    niv2_tasks(folder)
    with caplog.at_level(logging.WARNING):
        rows = rows_of("niv2/task001_movies_short_classification")
    assert rows[0] == {"id": "a", "input": "Ä?", "references": '["eins", "zwei"]'}
    assert [row["references"] for row in rows[1:]] == ['["as text"]'] and len(rows[1]["id"]) == 16
    assert "of 5 instances 2 left out as blank, 1 as duplicates" in caplog.text


def test_the_protocols_numbers(folder: Path) -> None:
    niv2_tasks(folder, max_train_instances=4)
    test = rows_of("niv2/task003_movies_question_generation", "validation")
    assert [row["input"] for row in test] == [f"Review {i}." for i in range(100)]  # the owners' first hundred
    train = rows_of("niv2/task001_movies_short_classification")
    numbers = [int(row["input"][7:-1]) for row in train]
    assert len(train) == 4 and numbers == sorted(numbers)
    niv2_tasks(folder, prefix="fewer", max_train_instances=3)
    fewer = rows_of("fewer/task001_movies_short_classification")
    assert {row["id"] for row in fewer} < {row["id"] for row in train}  # chosen by key: a smaller share is a part
    niv2_tasks(folder, prefix="all", max_test_instances=None)
    assert len(rows_of("all/task003_movies_question_generation", "validation")) == 130


def test_metrics_take_the_best_reference(folder: Path) -> None:
    niv2_tasks(folder)
    task = registry.get("niv2/task003_movies_question_generation")
    assert isinstance(task, seqio.Task)
    example = next(task.get_dataset(None, "validation", shuffle=False).as_numpy_iterator())
    target = example["targets_pretokenized"].decode()
    assert task.postprocess_fn(target, example=example, is_target=True) == ["yes", "Yes, it does."]
    assert task.postprocess_fn("maybe", example=example, is_target=False) == "maybe"
    assert references("x", example={}, is_target=True) == "x"
    request = {
        "targets": ["yes", "Yes, it does."],
        "predictions": {"after": ["yes, it does.", "yes"]},
        "examples": [{"references": '["yes", "Yes, it does."]'}] * 2,
    }
    answer = run_task(task, request, sensitive=False)
    means = {name: value for name, value in answer["metrics"]["after"].items() if "/" not in name}
    assert means == {"rouge_l": 100.0, "exact_match": 100.0} and not answer["errors"]
    assert METRICS["rouge_l"](["yes"], ["yes, it does."])["rouge_l"] < 100.0


# Prompts


def prompts(layout: Niv2Layout, folder: Path, row: dict[str, str], number: int = 60) -> set[tuple[str, str, str]]:
    name = f"p{len(registry.TASKS)}"
    niv2_tasks(folder, prefix=name, layouts=(layout,))
    templates = registry.info(f"{name}/task001_movies_short_classification").templates
    contexts = [RenderContext(prepare_seed=seed) for seed in range(number)]
    return {render_row(templates, row, identity="movies", source_id=row["id"], context=c) for c in contexts}


ROW = {"id": "q", "input": "Review 1.", "references": '["yes"]'}
GOLDEN = {
    "definition": "Say whether the review likes the film.\n\nInput: Review 1.\nOutput:",
    "two_shot": (
        "Say whether the review likes the film.\n\nInput: A joy.\nOutput: yes\n\nInput: Dull.\nOutput: no\n\n"
        "Input: Review 1.\nOutput:"
    ),
    "two_shot_explained": (
        "Task: Say whether the review likes the film.\n\nExample 1\nInput: A joy.\nOutput: yes\nWhy: Joy is good.\n\n"
        "Example 2\nInput: Dull.\nOutput: no\nWhy: Dull is bad.\n\nInput: Review 1.\nOutput:"
    ),
    "first_two": (
        "Definition: Say whether the review likes the film.\n\n Positive Example 1 -\nInput: A joy.\n Output: yes.\n\n"
        " Positive Example 2 -\nInput: Dull.\n Output: no.\n\nNow complete the following example -\nInput: Review 1.\n"
        "Output:"
    ),
}


@pytest.mark.parametrize(("layout", "number"), [(LAYOUTS[0], 1), (LAYOUTS[1], 6), (LAYOUTS[2], 2), (OFFICIAL, 1)])
def test_golden_prompts(folder: Path, layout: Niv2Layout, number: int) -> None:
    """number: of orders and choices among three examples, of which two have explanations."""
    found = prompts(layout, folder, ROW)
    assert (GOLDEN[layout.id], "yes", layout.id) in found and len(found) == number


def test_as_many_examples_as_an_evaluation_asks_for(folder: Path) -> None:
    """The first ones in the file's order, whatever the layout; a layout of the protocol's order keeps its words."""
    task = f"{(name := 'shots')}/task001_movies_short_classification"
    niv2_tasks(folder, prefix=name, layouts=(LAYOUTS[0], OFFICIAL))
    for template in registry.info(task).templates:
        for shots in (0, 1, 2):
            prompts_of = {template.with_shots(shots).render(ROW, key)[0] for key in range(20)}
            (prompt,) = prompts_of
            assert template.with_shots(shots).id == template.id and prompt.count("Output:") == shots + 1
            assert prompt.startswith("Definition: Say whether the review likes the film.\n\n")
            if shots == 2:
                assert prompt == GOLDEN["first_two"]


def test_the_query_is_never_its_own_exemplar(folder: Path) -> None:
    for text in ("Dull.", " dull ", "A joy."):
        found = prompts(LAYOUTS[1], folder, ROW | {"input": text})
        assert len(found) == 2  # orders of the two others
        assert all(prompt.casefold().count(text.strip().casefold()) == 1 for prompt, _, _ in found)


def test_examples_that_a_prompt_has_no_room_for_are_left_out(folder: Path) -> None:
    niv2_tasks(folder)
    task = "niv2/task001_movies_short_classification"
    templates = [t for t in registry.info(task).templates if t.layout.shots]
    assert templates
    for template, row in itertools.product(templates, rows_of(task)):
        whole, answer = template.render(row, 5)
        alone, same = template.within(Room(tokenizer=Letters(), tokens=0)).render(row, 5)
        assert same == answer and len(alone) < len(whole) and row["input"].strip() in alone
        for tokens in range(len(alone), len(whole) + 1, 7):
            some, _ = template.within(Room(tokenizer=Letters(), tokens=tokens)).render(row, 5)
            assert len(some) <= tokens and row["input"].strip() in some
        assert template.within(Room(tokenizer=Letters(), tokens=len(whole))).render(row, 5)[0] == whole


def test_mmlus_tasks_are_not_trained_on(tmp_path: Path) -> None:
    numbers = (*range(664, 668), *range(685, 738))  # those that FLAN 2022 left out of NIv2
    names = [f"task{n}_mmmlu_answer_generation_subject_{n}" for n in numbers]
    for n, name in zip(numbers, names, strict=True):
        write(tmp_path, name, task_json(n, Source=["mmmlu"] if n % 2 else ["college exams"]))
    write(tmp_path, SENTIMENT, task_json(1))
    found = niv2_tasks(tmp_path, splits=None)
    assert found["train"] == ["niv2/task001_movies_short_classification"]
    assert len(found["excluded"]) == 57
    with pytest.raises(UserError, match="is not available: it is of mmlu, which is not trained on"):
        registry.get(found["excluded"][0])
    assert len(niv2_tasks(tmp_path, splits=None, prefix="all", leave_out=())["train"]) == 58


class Letters:
    def encode(self, text: str) -> list[str]:
        return list(text)


def test_too_few_examples_are_all_shown(folder: Path) -> None:
    write(folder, SENTIMENT, task_json(**{"Positive Examples": [{"input": "Dull.", "output": "no"}]}))
    ((prompt, _, _),) = prompts(LAYOUTS[1], folder, ROW)
    assert prompt.count("Input:") == 2
    ((prompt, _, _),) = prompts(LAYOUTS[2], folder, ROW)  # its only example is not explained
    assert prompt == "Task: Say whether the review likes the film.\n\nInput: Review 1.\nOutput:"


def test_targets_are_one_of_the_references(folder: Path) -> None:
    found = prompts(LAYOUTS[0], folder, ROW | {"references": '["yes", "it does"]'})
    assert {target for _, target, _ in found} == {"yes", "it does"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"prompt": "{defintion} {input}"},
            "uses field {defintion}, which the source lacks. Did you mean 'definition'?",
        ),
        ({"prompt": "{input}", "shots": 1}, "shots=1, but its prompt has no {examples}"),
        ({"prompt": "{input}", "shots": -1}, "shots=-1 must be at least 0"),
        ({"prompt": "{input}", "example": "{inputs}"}, "uses field {inputs}, which the source lacks. Did you mean"),
    ],
)
def test_faults_of_a_layout(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match="layout 'mine'") as error:
        Niv2Layout(id="mine", **fields)
    assert message in str(error.value)


# Faults


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Instances": None}, "json: no 'Instances' in this record."),
        ({"Instances": {"0": {}}}, "json: 'Instances' is a dict, must be a list"),
        ({"Instances": ["x"]}, "json: Instances[0] is a str, must be an object"),
        ({"Instances": [{"id": "1", "inputs": "x", "output": ["y"]}]},
         "json: Instances[0]: no 'input' in this record. Did you mean 'inputs'?"),
        ({"Instances": [{"id": "1", "input": "x"}]}, "json: Instances[0]: no 'output' in this record."),
        ({"Instances": [{"id": "1", "input": "x", "output": [3]}]},
         "json: Instances[0]: 'output' must be a list of text"),
        ({"Instances": [{"id": "1", "input": "x", "output": ["y"]}, {"id": "1", "input": "z", "output": ["y"]}]},
         "json: Instances[1]: id '1' was used before, for other text"),
        ({"Definition": None}, "json: no 'Definition' in this record."),
        ({"Definition": []}, "json: 'Definition' is empty"),
        ({"Definition": [1]}, "json: 'Definition' must be text or a list of text"),
        ({"Positive Examples": None}, "json: no 'Positive Examples' in this record. Did you mean 'Negative Examples'?"),
        ({"Positive Examples": [{"input": "x"}]}, "json: Positive Examples[0]: no 'output' in this record."),
    ],
)  # fmt: skip
def test_faults_of_a_file_when_it_is_read(folder: Path, changes: dict, message: str) -> None:
    write(folder, SENTIMENT, task_json(**changes))
    niv2_tasks(folder)
    task = "niv2/task001_movies_short_classification"
    with pytest.raises(UserError) as error:
        row = rows_of(task)[0]
        render_row(registry.info(task).templates, row, identity="x", source_id="1", context=RenderContext())
    assert message in str(error.value) and SENTIMENT in str(error.value) and "\n" not in str(error.value)


def test_faults_of_heads_come_all_at_once(folder: Path) -> None:
    write(folder, SENTIMENT, task_json(Categories=None))
    write(folder, ASKING, task_json(Categories=[]))
    (folder / "tasks" / f"{COUNTING}.json").write_text("not JSON", encoding="utf-8")
    with pytest.raises(UserError) as error:
        niv2_tasks(folder)
    for part in ("short_classification.json: no 'Categories'", "counting.json:1: not JSON", "'Categories' is empty"):
        assert part in str(error.value)
    assert not registry.TASKS


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("test_tasks.txt", "task002_countin\n", "test_tasks.txt:1: no file task002_countin.json in"),
        ("test_tasks.txt", f"\n{COUNTING}\n", f"test_tasks.txt:2: {COUNTING!r} is listed before, in"),
        ("train_tasks.txt", None, "train_tasks.txt: no such file."),
    ],
)
def test_faults_of_split_files(folder: Path, name: str, text: str | None, message: str) -> None:
    path = folder / "splits" / "default" / name
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        niv2_tasks(folder)
    assert message in str(error.value)


def test_faults_of_folders(folder: Path) -> None:
    with pytest.raises(UserError, match="no such folder of split files. Did you mean 'default'?"):
        niv2_tasks(folder, splits="defualt")
    with pytest.raises(UserError, match="no such folder; NIv2's own layout has tasks"):
        niv2_tasks(folder / "tasks")
    (folder / "tasks" / "tasks").mkdir()
    with pytest.raises(UserError, match="no .json file in it"):
        niv2_tasks(folder / "tasks")
    with pytest.raises(UserError, match="validation_fraction=1 must be in"):
        niv2_tasks(folder, validation_fraction=1)


# Prepared


def test_prepare_renders_variants_and_notices_edits(toy: Toy, folder: Path) -> None:
    toy.write(f"from itune.data import niv2_tasks\nniv2_tasks({str(folder)!r})\n")
    task = "niv2/task001_movies_short_classification"
    request: dict[str, Any] = {"mixture": "niv2_train", "held_out": ("niv2_test",)}
    with pytest.raises(UserError, match="task003_movies_question_generation' is held out, but"):
        toy.prepare(**request)  # both are made from the same source
    toy.write(f"from itune.data import niv2_tasks\nniv2_tasks({str(folder)!r}, splits=None)\n")
    v = len(LAYOUTS)
    manifest = toy.prepare(mixture="niv2_train", variants=v, eval_split="train")
    records = records_of(split_of(manifest, task))
    ids = {layout.id for layout in LAYOUTS}
    assert len(records) == 6 * v and {r.template for r in records} == ids
    assert all({r.template for r in records[i : i + v]} == ids for i in range(0, 6 * v, v))
    assert records[0].extras == {"input": "Review 0.", "references": '["yes", "Yes, it does."]'}
    asked = {"mixture": "niv2_train"}
    before, other = toy.fingerprint(task, **asked), toy.fingerprint("niv2/task002_counting", **asked)
    assert before == toy.fingerprint(task, **asked) != other
    path = write(folder, SENTIMENT, task_json(1, Definition=["Say whether it is liked."]))
    os.utime(path, ns=(1, 1))
    assert toy.fingerprint(task, **asked) != before and toy.fingerprint("niv2/task002_counting", **asked) == other
    assert manifest.still_valid() is not None
    v = len(LAYOUTS)
    manifest = toy.prepare(mixture="niv2_train", variants=v, eval_split="train")
    assert all("Say whether it is liked." in r.inputs_text for r in records_of(split_of(manifest, task)))
