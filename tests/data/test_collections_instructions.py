"""Alpaca's kin, Medical Meadow, PMC-LLaMA's instructions: hand-made files in the owners' layouts, and real rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itune.data import (
    canonical,
    dolly_tasks,
    medical_meadow,
    pmc_llama_instructions,
    registry,
    self_instruct,
    self_instruct_seeds,
    stanford_alpaca,
    unnatural_instructions,
    user_oriented,
)
from itune.data.collections import instructions
from itune.data.collections.alpaca_kin import DOLLY_CLUSTERS
from itune.data.collections.medical import MEADOW
from itune.data.collections.pmc_llama import PMC_SOURCES
from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of


@pytest.fixture(autouse=True)
def _own_registries(registries: None) -> None:
    pass


def jsonl(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def as_list(path: Path, records: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=4), encoding="utf-8")
    return path


def rows_of(task: str) -> list[dict[str, str]]:
    source = registry.get(task).source
    return [row for split in source.splits for row in source.each_row(split)]


# Alpaca and its kin


def dolly(number: int, category: str, context: str = "") -> dict[str, str]:
    return {"instruction": f"Do {number}.", "context": context, "response": f"Done {number}.", "category": category}


def test_dolly_by_category_or_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [dolly(i, category) for i, category in enumerate(DOLLY_CLUSTERS)]
    records += [dolly(100, "closed_qa", "Berlin[1][23] is [a] city.[4]")]
    path = jsonl(tmp_path / "databricks-dolly-15k.jsonl", records)
    with monkeypatch.context() as patched:
        patched.setattr(instructions, "stream_records", lambda path: pytest.fail("rows were read"))
        assert dolly_tasks(path) == [f"dolly/{category}" for category in DOLLY_CLUSTERS]
        assert dolly_tasks(path, name="whole", per_category=False, strip_marks=False) == ["whole"]
    info = registry.info("dolly/closed_qa")
    assert (info.cluster, info.licence, info.identity) == ("closed_questions", "CC-BY-SA-3.0", "dolly")
    assert registry.info("whole").cluster == "instructions" and registry.info("whole").identity == "dolly"
    assert {r["category"] for r in rows_of("dolly/closed_qa")} == {"closed_qa"}
    assert {r["input"] for r in rows_of("dolly/closed_qa")} == {"", "Berlin is [a] city."}
    assert [r["request"] for r in rows_of("dolly/closed_qa") if r["input"]] == ["Do 100.\n\nBerlin is [a] city."]
    whole = rows_of("whole")
    assert Counter(r["category"] for r in whole) == {**dict.fromkeys(DOLLY_CLUSTERS, 1), "closed_qa": 2}
    assert "Berlin[1][23] is [a] city.[4]" in {r["input"] for r in whole}
    assert {info.name for info, _ in registry.mixture_info("dolly")} == {f"dolly/{c}" for c in DOLLY_CLUSTERS}


def test_rows_of_one_question_are_on_one_side_in_each_view_of_dolly(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", [dolly(i, list(DOLLY_CLUSTERS)[i % 8]) for i in range(80)])
    dolly_tasks(path, validation_fraction=0.4)
    dolly_tasks(path, name="whole", per_category=False, validation_fraction=0.4)
    for split in ("train", "validation"):
        apart = {r["id"] for c in DOLLY_CLUSTERS for r in registry.get(f"dolly/{c}").source.each_row(split)}
        assert apart == {r["id"] for r in registry.get("whole").source.each_row(split)} and apart


def unnatural(number: int, **changes: Any) -> dict[str, Any]:
    """A record of full_data.jsonl."""
    instance = {
        "instruction_with_input": f"Name the capital of land {number}.",
        "input": f"land {number}",
        "constraints": "None.",
        "output": f"City {number}",
    }
    other = {
        "instruction": "Which city leads? {INPUT}",
        "instruction_with_input": f"Which city leads? land {number}",
        "input": f"land {number}",
        "output": f"City {number}",
    }
    record = {"instruction": f"Name a capital, {number}.", "instances": [instance], "reformulations": [other] * 2}
    return record | changes


def test_unnatural_instructions_core_and_full(tmp_path: Path) -> None:
    limited = unnatural(3)
    limited["instances"][0]["constraints"] = "One word."
    records = [*(unnatural(i) for i in range(3)), limited]
    core = [{k: v for k, v in record.items() if k != "reformulations"} for record in records]
    unnatural_instructions(jsonl(tmp_path / "core_data.jsonl", core), name="core")
    unnatural_instructions(jsonl(tmp_path / "full_data.jsonl", records), validation_fraction=0.5)
    found = rows_of("core")
    assert len(found) == 4 and {r["form"] for r in found} == {"instance"}
    assert "Name the capital of land 3.\nOne word." in {r["prompt"] for r in found}
    assert "Name the capital of land 1." in {r["prompt"] for r in found}
    full = rows_of("unnatural_instructions")
    assert Counter(r["form"] for r in full) == {"instance": 4, "reformulation": 4}
    assert registry.info("core").licence == "MIT" and registry.info("core").identity == "unnatural_instructions"
    source = registry.get("unnatural_instructions").source
    sides = [{r["source_instruction"] for r in source.each_row(split)} for split in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(rows_of_options(tmp_path, reformulations=False)) == 4
    assert "\nOne word." not in "".join(r["prompt"] for r in rows_of_options(tmp_path, constraints=False))


def rows_of_options(folder: Path, **options: Any) -> list[dict[str, str]]:
    name = "_".join(options)
    unnatural_instructions(folder / "full_data.jsonl", name=name, **options)
    return rows_of(name)


def test_self_instruct_generations_and_alpaca(tmp_path: Path) -> None:
    rows = [{"instruction": f"Do {i}.", "input": "", "output": "x" if i else " "} for i in range(5)]
    self_instruct(jsonl(tmp_path / "all_instances_82K.jsonl", rows))
    stanford_alpaca(as_list(tmp_path / "alpaca_data.json", rows), validation_fraction=0.0)
    assert len(rows_of("self_instruct")) == 4 and len(registry.get("alpaca").source.checked_rows("train")) == 4
    assert registry.info("self_instruct").licence == "Apache-2.0"
    assert registry.info("alpaca").licence == "CC-BY-NC-4.0"


def test_the_real_seed_tasks(data_dir: Path) -> None:
    self_instruct_seeds(data_dir / "general" / "self_instruct_seed_tasks.jsonl")
    found = rows_of("self_instruct/seeds")
    assert len(found) == 175 and Counter(r["is_classification"] for r in found) == {"false": 149, "true": 26}
    assert found[0].keys() >= {"name", "request", "labelled_input"}


def test_the_real_user_oriented_instructions_are_for_evaluation_only(data_dir: Path, toy: Toy) -> None:
    path = data_dir / "general" / "self_instruct_user_oriented.jsonl"
    user_oriented(path)
    assert registry.get("user_oriented").source.splits == ("validation",)
    found = rows_of("user_oriented")
    assert len(found) == 252 and Counter(r["app"] for r in found)["Grammarly"] > 1
    toy.write(f"from itune.data import user_oriented\nuser_oriented({str(path)!r}, name='apps')")
    with pytest.raises(UserError, match="task 'apps' is to be trained on, split 'train', but it has only 'validation'"):
        toy.prepare(mixture="apps")


# Medicine


def triple(number: int, source: str = "", **changes: Any) -> dict[str, Any]:
    record = {"instruction": "Answer.", "input": f"What is {number}?", "output": f"It is {number}."}
    return record | ({"source": source, "sample_id": None} if source else {}) | changes


@pytest.fixture
def meadow(tmp_path: Path) -> Path:
    """Sets as the hub calls them: files beside each other, in their repositories' folders, and in another format."""
    folder = tmp_path / "meadow"
    as_list(folder / "medical_meadow_wikidoc.json", [triple(i) for i in range(20)])
    as_list(folder / "medical_meadow_wikidoc_medical_flashcards.json", [triple(i) for i in range(20)])
    as_list(folder / "medical_meadow_mmmlu" / "medical_meadow_mmmlu.json", [triple(i) for i in range(20)])
    jsonl(folder / "medical_meadow_medqa" / "train.jsonl", [triple(i) for i in range(20)])
    (folder / "README.md").write_text("A card.")
    return folder


def test_medical_meadow_registers_what_is_there_and_mixes_no_test(
    meadow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(instructions, "stream_records", lambda path: pytest.fail("rows were read"))
        found = medical_meadow(meadow)
    sets = ["medical_flashcards", "wikidoc", "medqa", "mmmlu"]
    assert found == [f"medical_meadow/{name}" for name in sets]
    assert {i.name for i, _ in registry.mixture_info("medical_meadow")} == {*found} - {"medical_meadow/mmmlu"}
    mmlu = registry.info("medical_meadow/mmmlu")
    assert canonical(mmlu.identity) == canonical("hendrycks_test") and "of the test MMLU" in mmlu.description
    assert (mmlu.licence, mmlu.metrics) == ("MIT", ("exact_match",))
    assert registry.info("medical_meadow/medqa").cluster == "medical_exams"
    assert all(len(rows_of(name)) == 20 for name in found)
    medical_meadow(meadow, prefix="all", contaminating=True)
    assert len(registry.mixture_info("all")) == 4


def test_only_a_test_makes_no_mixture(meadow: Path) -> None:
    medical_meadow(meadow, sets=["mmmlu"])
    with pytest.raises(
        UserError, match="'medical_meadow' is not available: all of its sets hold a test's rows; say cont"
    ):
        registry.get("medical_meadow")


def test_the_real_small_set_is_wikidocs_patient_information(data_dir: Path) -> None:
    assert medical_meadow(data_dir / "clinical") == ["medical_meadow/wikidoc_patient_information"]
    source = registry.get("medical_meadow/wikidoc_patient_information").source
    rows = json.loads((data_dir / "clinical" / "medical_meadow_small.json").read_text())
    filled = {tuple(row.values()) for row in rows if row["output"].strip()}
    sizes = {split: len(list(source.each_row(split))) for split in source.splits}
    assert sum(sizes.values()) == len(filled) and 0.05 < sizes["validation"] / len(filled) < 0.15


def test_each_set_has_its_own_facts() -> None:
    assert len({about.identity for about in MEADOW.values()}) == len(MEADOW)
    names = [name for about in MEADOW.values() for name in about.files]
    assert len(set(names)) == len(names)
    assert [name for name, about in MEADOW.items() if about.contaminates] == ["mmmlu"]


def test_pmc_llama_whole_and_by_source(tmp_path: Path) -> None:
    sources = list(PMC_SOURCES)
    records = [triple(i, sources[i % 7]) for i in range(70)]
    # One question in two wordings of the instruction.
    records += [triple(i, "medqa_train", instruction="Kindly answer.", sample_id=3) for i in range(0, 70, 7)]
    path = as_list(tmp_path / "release.json", records)
    assert pmc_llama_instructions(path, validation_fraction=0.3) == ["pmc_llama"]
    found = rows_of("pmc_llama")
    assert Counter(r["source"] for r in found) == {**dict.fromkeys(sources, 10), "medqa_train": 20}
    assert registry.info("pmc_llama").identity == "pmc_llama_instructions"
    sides = [{r["input"] for r in registry.get("pmc_llama").source.each_row(s)} for s in ("train", "validation")]
    assert all(sides) and not sides[0] & sides[1]
    apart = pmc_llama_instructions(path, name="by", per_source=True, sources=["medmcqa", "umls"])
    assert apart == ["by/medmcqa", "by/umls"]
    assert {r["source"] for r in rows_of("by/medmcqa")} == {"medmcqa"} and len(rows_of("by/umls")) == 10
    info = registry.info("by/medmcqa")
    assert (info.cluster, info.identity) == ("medical_exams", "medmcqa")
    assert len(registry.mixture_info("by")) == 2


def test_prepared_examples_say_their_source(toy: Toy, tmp_path: Path) -> None:
    path = as_list(tmp_path / "release.json", [triple(i, "liveqa") for i in range(40)])
    toy.write(f"from itune.data import pmc_llama_instructions\npmc_llama_instructions({str(path)!r})")
    manifest = toy.prepare(mixture="pmc_llama")
    prepared = records_of(split_of(manifest, "pmc_llama"))
    assert {record.extras["source"] for record in prepared} == {"liveqa"}
    assert {record.template for record in prepared} == {"plain", "labelled"}


# Faults


@pytest.mark.parametrize(
    ("register", "record", "message"),
    [
        (
            lambda p: dolly_tasks(p),
            dolly(1, "openqa"),
            r"x.jsonl:2: Dolly has no category 'openqa'.* Did you mean 'open_qa'",
        ),
        (lambda p: dolly_tasks(p), {"instruction": "a"}, r"x.jsonl:2: no 'category' in this record"),
        (
            lambda p: unnatural_instructions(p),
            unnatural(1, instances={}),
            r"x.jsonl:2: 'instances' must be a list of obj",
        ),
        (
            lambda p: unnatural_instructions(p),
            unnatural(1, instances=[{"instruction_with_input": "a"}]),
            r"x.jsonl:2: instances\[0\]: no 'output' in this record",
        ),
        (lambda p: self_instruct_seeds(p), {"instruction": "a", "name": "b"}, r"x.jsonl:2: no 'is_classification' in"),
        (
            lambda p: self_instruct(p),
            {"instruction": ["a"], "output": "b"},
            r"x.jsonl:2: 'instruction' is a list, must be",
        ),
        (lambda p: user_oriented(p), {"instruction": "a"}, r"x.jsonl:2: no 'motivation_app' in this record"),
        (
            lambda p: pmc_llama_instructions(p),
            triple(1, "medqa_trian"),
            r"x.jsonl:2: source 'medqa_trian' is none of PMC-LLaMA's.* Did you mean 'medqa_train'",
        ),
    ],
)
def test_bad_rows_name_file_and_record(
    tmp_path: Path, register: Callable[[Path], Any], record: dict[str, Any], message: str
) -> None:
    good = dolly(0, "open_qa") | unnatural(0) | triple(0, "umls") | {"name": "n", "is_classification": False}
    path = jsonl(tmp_path / "x.jsonl", [good | {"instances": [], "motivation_app": "Mail"}, record])
    registered = register(path)
    name = registered[0] if isinstance(registered, list) else registered.name
    with pytest.raises(UserError, match=message) as error:
        rows_of(name)
    assert "\n" not in str(error.value)


def test_bad_choices_are_one_line(meadow: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Dolly has no category 'openqa'.* Did you mean 'open_qa'"):
        dolly_tasks(tmp_path / "d.jsonl", categories=["openqa"])
    with pytest.raises(UserError, match=r"PMC-LLaMA's rows have no source 'umsl'.* Did you mean 'umls'"):
        pmc_llama_instructions(tmp_path / "release.json", sources=["umsl"])
    with pytest.raises(UserError, match=r"meadow: Medical Meadow has no set 'mmlu'.* Did you mean 'mmmlu'"):
        medical_meadow(meadow, sets=["mmlu"])
    with pytest.raises(UserError, match="meadow: holds no file of 'cord19', medical_meadow_cord19.json or a folder"):
        medical_meadow(meadow, sets=["cord19"])
    with pytest.raises(UserError, match="nowhere: no such folder"):
        medical_meadow(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no file of Medical Meadow"):
        medical_meadow(tmp_path / "empty")
    as_list(meadow / "medical_meadow_medqa.json", [triple(1)])
    with pytest.raises(UserError, match="meadow: 'medqa' is there twice, as train.jsonl and medical_meadow_medqa.json"):
        medical_meadow(meadow)
