"""Real files in their owners' layouts, with counts taken by other means: pandas for CSV, wc and grep for lines, awk for
fields, json for lists."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
import seqio

from itune.data import Table, alpaca_task, prompt_completion_task, read_json, read_records, read_text, registry
from itune.errors import UserError

COT = Table(delimiter="\t", quote="", columns=("question", "answer", "rationale"))
ADVERSE = Table(delimiter="|", quote="", columns=("pmid", "text", "effect", "e0", "e1", "drug", "d0", "d1"))
DOSES = Table(delimiter="|", quote="", columns=("pmid", "text", "dose", "s0", "s1", "drug", "d0", "d1"))
TAGS = Table(delimiter="\t", quote="", columns=("token", "tag"))


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))


@pytest.mark.parametrize(
    ("path", "table", "count", "columns"),
    [
        ("clinical/mts_dialog/MTS-Dialog-TrainingSet.csv", None, 1201, "ID section_header section_text dialogue"),
        ("clinical/mts_dialog/MTS-Dialog-ValidationSet.csv", None, 100, "ID section_header section_text dialogue"),
        ("clinical/mts_dialog/*.csv", None, 1301, "ID section_header section_text dialogue"),
        ("clinical/aci_bench/train.csv", None, 67, "dataset encounter_id dialogue note"),
        ("clinical/aci_bench/valid.csv", None, 20, "dataset encounter_id dialogue note"),
        ("clinical/medical_abstracts/medical_tc_test.csv", None, 2888, "condition_label medical_abstract"),
        ("clinical/medical_abstracts/medical_tc_labels.csv", None, 5, "condition_label condition_name"),
        ("clinical/ade/DRUG-AE.rel", ADVERSE, 6821, "pmid text effect e0 e1 drug d0 d1"),
        ("clinical/ade/DRUG-DOSE.rel", DOSES, 279, "pmid text dose s0 s1 drug d0 d1"),
        ("clinical/ncbi_disease/train.tsv", TAGS, 135701, "token tag"),
        ("clinical/ncbi_disease/devel.tsv", TAGS, 23969, "token tag"),
        ("clinical/medquad.jsonl.gz", None, 16407, "source url focus qtype question answer"),
        ("clinical/medical_meadow_small.json", None, 5942, "instruction input output"),
        ("clinical/triage/avey_vignettes.jsonl", None, 400, None),
        ("general/alpaca_en_demo.json", None, 999, "instruction input output"),
        ("general/oasst_en_100_tree.jsonl", None, 100, "message_tree_id tree_state prompt"),
        ("general/self_instruct_seed_tasks.jsonl", None, 175, "id name instruction instances is_classification"),
        ("general/self_instruct_user_oriented.jsonl", None, 252, None),
        ("general/t0_prompts.jsonl.gz", None, 27378, "dataset template prompt target"),
        ("general/gsm8k/train.jsonl", None, 7473, "question answer"),
        ("general/gsm8k/test.jsonl", None, 1319, "question answer"),
        ("general/flan_cot/aqua_train.tsv.gz", COT, 2728, "question answer rationale"),
        ("general/flan_cot/creak_train.tsv.gz", COT, 6915, "question answer rationale"),
        ("general/flan_cot/ecqa_train.tsv.gz", COT, 7112, "question answer rationale"),
        ("general/flan_cot/gsm8k_train.tsv.gz", COT, 7473, "question answer rationale"),
        ("general/flan_cot/qasc_train.tsv.gz", COT, 1084, "question answer rationale"),
        ("general/flan_cot/sensemaking_train.tsv.gz", COT, 6070, "question answer rationale"),
        ("general/flan_cot/strategyqa_train.tsv.gz", COT, 2061, "question answer rationale"),
        ("general/flan_cot/*.tsv.gz", COT, 33443, "question answer rationale"),
    ],
    ids=lambda value: value if isinstance(value, str) and "/" in value else "",
)
def test_records(data_dir: Path, path: str, table: Table | None, count: int, columns: str | None) -> None:
    found = [record for _, record in read_records(data_dir / path, table=table)]
    assert len(found) == count
    if columns:
        assert {tuple(record) for record in found} == {tuple(columns.split())}


def test_whole_values_and_lines(data_dir: Path) -> None:
    clinical = data_dir / "clinical"
    assert len(read_json(clinical / "pubmedqa" / "ori_pqal.json")) == 1000
    assert len(read_json(clinical / "pubmedqa" / "test_ground_truth.json")) == 500
    scenarios = read_json(clinical / "triage" / "nursesim_scenarios.json")
    assert sorted(scenarios) == ["1", "2", "3", "4", "5"] and sum(map(len, scenarios.values())) == 160
    negatives = read_text(clinical / "ade" / "ADE-NEG.txt").splitlines()
    assert len(negatives) == 16695 and all(line.split(" ")[1] == "NEG" for line in negatives)
    source, target = (read_text(clinical / "cochrane_plain" / f"val.{side}") for side in ("source", "target"))
    assert source.count("\n") == target.count("\n") == 411


def test_offsets_of_adverse_events_are_as_long_as_their_text(data_dir: Path) -> None:
    """The corpus counts from the start of the abstract, which it does not hold: only lengths can be compared."""
    rows = [record for _, record in read_records(data_dir / "clinical" / "ade" / "DRUG-AE.rel", table=ADVERSE)]
    assert rows[0]["effect"] == "ototoxicity" and rows[0]["drug"] == "azithromycin"
    agree = sum(int(r["e1"]) - int(r["e0"]) == len(r["effect"]) for r in rows)
    assert agree == 6821
    assert sum(r["effect"] in r["text"] for r in rows) == 6821


def test_a_rel_file_in_latin_1_needs_its_encoding_declared(tmp_path: Path) -> None:
    path = tmp_path / "DRUG-AE.rel"
    line = "10030778|Sjögren's syndrome after azithromycin.|Sjögren's syndrome|0|18|azithromycin|25|37\n"
    path.write_bytes(line.encode("latin-1"))
    ((where, row),) = read_records(path, "latin-1", ADVERSE)
    assert (where, row["effect"]) == (f"{path}:1", "Sjögren's syndrome")
    with pytest.raises(UserError, match=r"DRUG-AE.rel:1: not utf-8-sig \(byte 0xf6\); declare its encoding="):
        list(read_records(path, table=ADVERSE))


def test_newlines_inside_real_fields_are_kept(data_dir: Path) -> None:
    path = data_dir / "clinical" / "mts_dialog" / "MTS-Dialog-ValidationSet.csv"
    found = list(read_records(path))
    assert [record["ID"] for _, record in found] == [str(i) for i in range(100)]
    turns = found[0][1]["dialogue"].split("\n")
    assert len(turns) == 20 and turns[5] == "Patient: I'm twenty six.  "
    # The second record begins on the line after the first one's last.
    header, first = 1, sum(text.count("\n") for text in found[0][1].values()) + 1
    assert found[1][0] == f"{path}:{header + first + 1}"


def test_every_csv_field_is_what_python_reads_with_no_rules_of_ours(data_dir: Path) -> None:
    for path in sorted((data_dir / "clinical").rglob("*.csv*")):
        packed = gzip.open if path.suffix == ".gz" else open
        with packed(path, "rt", encoding="utf-8-sig", newline="") as file:
            expected = list(csv.DictReader(file))
        assert [record for _, record in read_records(path)] == expected, path


def distinct(rows: list[dict], question: tuple[str, ...], answer: str) -> int:
    """Different rows with an answer, as a JSON library and a set count them."""
    filled = [row for row in rows if row[answer].strip() and row[question[0]].strip()]
    return len({tuple(row[name] for name in (*question, answer)) for row in filled})


@pytest.mark.parametrize(
    ("path", "count"), [("general/alpaca_en_demo.json", 999), ("clinical/medical_meadow_small.json", 5942)]
)
def test_ready_alpaca_tasks_have_every_distinct_row(data_dir: Path, path: str, count: int) -> None:
    rows = json.loads((data_dir / path).read_text(encoding="utf-8"))
    assert len(rows) == count
    source = alpaca_task("real", data_dir / path, licence="see the data").source
    sizes = {split: source.num_input_examples(split) for split in source.splits}
    assert sum(sizes.values()) == distinct(rows, ("instruction", "input"), "output")
    assert 0.05 < sizes["validation"] / sum(sizes.values()) < 0.15


def test_the_owners_splits_are_honoured(data_dir: Path) -> None:
    folder = data_dir / "clinical" / "mts_dialog"
    files = {"train": folder / "*TrainingSet.csv", "validation": folder / "MTS-Dialog-ValidationSet.csv"}
    keys = {"prompt_key": "dialogue", "completion_key": "section_text"}
    source = prompt_completion_task("mts", files, licence="CC-BY-4.0", **keys).source
    assert source.splits == ("train", "validation")
    for split, pattern in files.items():
        rows = [record for _, record in read_records(pattern)]
        there = {row["prompt"] for row in source.checked_rows(split)}
        assert there == {row["dialogue"] for row in rows if row["section_text"].strip()}
        assert source.num_input_examples(split) == distinct(rows, ("dialogue",), "section_text")
    assert [file.name for file in source.files] == ["MTS-Dialog-TrainingSet.csv", "MTS-Dialog-ValidationSet.csv"]


def test_abstracts_are_labelled_by_the_file_of_labels(data_dir: Path) -> None:
    """Counts by pandas: value_counts of condition_label."""
    folder = data_dir / "clinical" / "medical_abstracts"
    names = {r["condition_label"]: r["condition_name"] for _, r in read_records(folder / "medical_tc_labels.csv")}
    counts = Counter(names[r["condition_label"]] for _, r in read_records(folder / "medical_tc_test.csv"))
    assert counts == {
        "general pathological conditions": 961,
        "neoplasms": 633,
        "cardiovascular diseases": 610,
        "nervous system diseases": 385,
        "digestive system diseases": 299,
    }
