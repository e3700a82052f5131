"""The FLAN Collection in the three layouts of the hub, hand-made: what registers, rows, filters, the index, rates."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from itune.data import contamination, flan_collection, flan_index, identities, registry, split_flan
from itune.data.collections import flan_files
from itune.data.sources import StreamedSource
from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of

RTE, ESNLI, ESNLI_II, CREAK = "glue/rte:2.0.0", "cot_esnli", "cot_esnli_ii", "cot_creak"


@pytest.fixture(autouse=True)
def _own_registries(registries: None) -> None:
    pass


def row(number: int, task: str, kind: str, **changes: Any) -> dict[str, Any]:
    """A row of DataProvenanceInitiative's copy."""
    return {
        "inputs": f"Question {number} of {task}?\nOptions:\n- yes\n- no",
        "targets": "yes" if number % 2 else "no",
        "task_source": "CoT" if task.startswith("cot") else "Flan2021",
        "task_name": task,
        "template_type": kind,
    } | changes


def open_orca(number: int, task: str, kind: str) -> dict[str, Any]:
    """The same in Open-Orca's copy."""
    return {k if k in ("inputs", "targets") else f"_{k}": v for k, v in row(number, task, kind).items()}


def sir_neural(number: int, submix: str) -> dict[str, Any]:
    return {"inputs": f"Question {number}?", "targets": "yes", "task": submix}


def parquet(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """flan2021 as one repository a submix, cot as a folder a kind."""
    kinds = flan_files.KINDS
    flan = [row(i, RTE, kinds[i % 4]) for i in range(40)] + [row(i, "bool_q:1.0.0", "zs_opt") for i in range(3)]
    data = tmp_path / "hub" / "flan2021_submix_original" / "data"
    parquet(data / "train-00000-of-00002-3567632fcf5dcbb6.parquet", flan[:20])
    parquet(data / "train-00001-of-00002-074f71469590ee0d.parquet", flan[20:])
    names = [ESNLI, ESNLI_II, CREAK, CREAK]
    for kind, folder in (("zs_opt", "cot_zsopt_data"), ("fs_opt", "cot_fsopt_data")):
        parquet(tmp_path / "hub" / folder / "part.0.parquet", [open_orca(i, names[i % 4], kind) for i in range(20)])
    (tmp_path / "hub" / "README.md").write_text("A card.")
    return tmp_path / "hub"


def rows_of(task: str) -> list[dict[str, str]]:
    source = registry.get(task).source
    return [row for split in source.splits for row in source.each_row(split)]


def test_a_task_for_each_submix_and_kind_and_no_row_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flan_files, "stream_records", lambda path: pytest.fail("rows were read"))
    found = flan_collection(folder)
    assert found == {
        "flan2021": [f"flan2022_published/flan2021/{kind}" for kind in flan_files.KINDS],
        "cot": ["flan2022_published/cot/zs_opt", "flan2022_published/cot/fs_opt"],
    }
    info = registry.info("flan2022_published/cot/zs_opt")
    assert (info.cluster, info.identity, info.licence[:7]) == ("cot", "flan2022_collection_cot", "unknown")
    assert info.truncate_side == "right" and registry.info("flan2022_published/cot/fs_opt").truncate_side == "left"


def test_the_mixture_is_at_flans_rates(folder: Path) -> None:
    flan_collection(folder)
    rates = {info.name: rate for info, rate in registry.mixture_info("flan2022_published")}
    assert rates["flan2022_published/flan2021/zs_opt"] == pytest.approx(0.4 / 4)
    assert rates["flan2022_published/cot/fs_opt"] == pytest.approx(0.05 / 2)


def test_rows_are_of_their_kind_and_keep_their_provenance(folder: Path) -> None:
    flan_collection(folder)
    found = rows_of("flan2022_published/flan2021/zs_noopt")
    assert {(r["task_name"], r["task_source"]) for r in found} == {(RTE, "Flan2021")}
    assert sorted(r["inputs"] for r in found) == sorted(row(i, RTE, "")["inputs"] for i in range(1, 40, 4))
    assert len(rows_of("flan2022_published/flan2021/zs_opt")) == 10 + 3
    assert len({r["id"] for r in rows_of("flan2022_published/cot/fs_opt")}) == 20


def test_prepared_examples_say_which_task_they_are_of(toy: Toy, folder: Path) -> None:
    toy.write(f"from itune.data import flan_collection\nflan_collection({str(folder)!r}, validation_fraction=0.3)")
    lengths = {"inputs": 200, "targets": 20}
    manifest = toy.prepare(mixture="flan2022_published/cot/zs_opt", feature_lengths=lengths, row_length=256)
    prepared = records_of(split_of(manifest, "flan2022_published/cot/zs_opt"))
    assert {record.extras["task_name"] for record in prepared} == {ESNLI, ESNLI_II, CREAK}
    assert prepared[0].inputs_text.startswith("Question ") and prepared[0].targets_text in ("yes", "no")
    both = [r.id for split in ("train", "validation") for r in records_of(split_of(manifest, manifest.mixture, split))]
    assert len(both) == len(set(both)) == 20


def test_streamed_rows_are_the_same_through_plain_seqio(folder: Path) -> None:
    flan_collection(folder, validation_fraction=0.0)
    source = registry.get("flan2022_published/cot/zs_opt").source
    assert isinstance(source, StreamedSource) and source.num_input_examples("train") is None
    dataset = source.get_dataset("train", shuffle=False)
    theirs = [{k: v.decode() for k, v in row.items()} for row in dataset.as_numpy_iterator()]
    assert theirs == list(source.each_row("train")) and len(theirs) == 20


def test_the_files_of_the_third_layout_have_no_task_names(tmp_path: Path) -> None:
    for part in (1, 2):
        jsonl(
            tmp_path / f"flan_fs_opt_train_part{part}.jsonl.gz", [sir_neural(10 * part + i, "flan") for i in range(5)]
        )
    jsonl(tmp_path / "niv2_zs_noopt_train.jsonl.gz", [sir_neural(1, "niv2")])
    assert flan_collection(tmp_path, submixes=["flan2021"]) == {"flan2021": ["flan2022_published/flan2021/fs_opt"]}
    assert len(rows_of("flan2022_published/flan2021/fs_opt")) == 10
    assert {r["task_name"] for r in rows_of("flan2022_published/flan2021/fs_opt")} == {""}
    flan_collection(tmp_path, submixes=["flan2021"], leave_out=["rte"], prefix="less")
    with pytest.raises(UserError, match="part1.jsonl.gz:1: has no task name to choose by; take another"):
        rows_of("less/flan2021/fs_opt")
    with pytest.raises(UserError, match="part1.jsonl.gz: its rows have no task names; take another copy"):
        flan_collection(tmp_path, submixes=["flan2021"], per_task=True, prefix="each")


def test_tasks_are_chosen_and_left_out_by_any_name(folder: Path) -> None:
    flan_collection(folder, tasks=["cot_*", "super_glue/boolq"], prefix="some")
    assert {r["task_name"] for r in rows_of("some/flan2021/zs_opt")} == {"bool_q:1.0.0"}
    flan_collection(folder, leave_out=["snli", RTE], prefix="less")
    assert {r["task_name"] for r in rows_of("less/cot/fs_opt")} == {CREAK}
    assert {r["task_name"] for r in rows_of("less/flan2021/zs_opt")} == {"bool_q:1.0.0"}


def test_a_task_each_has_its_source_as_identity_and_its_share_as_rate(folder: Path, tmp_path: Path) -> None:
    found = flan_collection(folder, per_task=True, index=tmp_path / "index.json", clusters={"*rte*": "entailment"})
    assert found["flan2021"] == [
        *(f"flan2022_published/flan2021/{kind}/glue/rte:2.0.0" for kind in sorted(flan_files.KINDS)[:3]),
        "flan2022_published/flan2021/zs_opt/bool_q:1.0.0",
        "flan2022_published/flan2021/zs_opt/glue/rte:2.0.0",
    ]
    rte, creak = (
        registry.info("flan2022_published/flan2021/fs_opt/glue/rte:2.0.0"),
        registry.info("flan2022_published/cot/fs_opt/cot_creak"),
    )
    assert (rte.identity, rte.cluster, creak.cluster) == (RTE, "entailment", "other")
    assert registry.info("flan2022_published/cot/fs_opt/cot_esnli_ii").identity == "cot_esnli"
    assert {r["task_name"] for r in rows_of("flan2022_published/flan2021/zs_opt/glue/rte:2.0.0")} == {RTE}
    rates = {info.name: rate for info, rate in registry.mixture_info("flan2022_published")}
    assert rates["flan2022_published/cot/fs_opt/cot_creak"] == pytest.approx(0.05 / 2 * 10 / 20)
    assert rates["flan2022_published/flan2021/zs_opt/bool_q:1.0.0"] == pytest.approx(0.4 / 4 * 3 / 13)


def test_the_index_is_read_again_and_noticed_when_stale(folder: Path, tmp_path: Path, monkeypatch: Any) -> None:
    index = tmp_path / "deep" / "index.json"
    first = flan_index(folder, index)
    assert [(t.submix, t.kind, t.name, t.rows) for t in first if t.submix == "cot"][:3] == [
        ("cot", "fs_opt", CREAK, 10),
        ("cot", "fs_opt", ESNLI, 5),
        ("cot", "fs_opt", ESNLI_II, 5),
    ]
    with monkeypatch.context() as patched:
        patched.setattr(flan_files, "stream_records", lambda path: pytest.fail("rows were read"))
        assert flan_index(folder, index) == first
    parquet(folder / "cot_zsopt_data" / "part.0.parquet", [open_orca(1, CREAK, "zs_opt")])
    with pytest.raises(UserError, match=r"index.json: cot_zsopt_data/part.0.parquet in .* is not as indexed; delete"):
        flan_index(folder, index)
    index.write_text("[]")
    with pytest.raises(UserError, match="index.json: is no index of the FLAN Collection"):
        flan_index(folder, index)


def test_split_into_a_file_a_task_it_is_the_same_collection(folder: Path, tmp_path: Path) -> None:
    assert split_flan(folder, tmp_path / "split") == 43 + 40
    flan_collection(folder, per_task=True, prefix="whole")
    found = flan_collection(tmp_path / "split", per_task=True, prefix="split")
    names = [name for names in found.values() for name in names]
    assert len(names) == 5 + 6
    for name in names:
        assert len(registry.get(name).source.files) == 1
        other = rows_of(name.replace("split/", "whole/"))
        assert sorted(r["id"] for r in rows_of(name)) == sorted(r["id"] for r in other)
    with pytest.raises(UserError, match="split: is there already"):
        split_flan(folder, tmp_path / "split")


def test_blank_rows_and_duplicates_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [row(1, RTE, "zs_opt"), row(1, RTE, "zs_opt"), row(2, RTE, "zs_opt", targets=" "), row(3, RTE, "zs_opt")]
    jsonl(tmp_path / "flan_zsopt_data" / "part.jsonl", rows)
    flan_collection(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert len(list(registry.get("flan2022_published/flan2021/zs_opt").source.each_row("train"))) == 2
    assert "1 rows left out as blank, 1 as duplicates" in caplog.text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"submixes": ["cott"]}, r"hub: holds no submix 'cott'.* Did you mean 'cot'"),
        ({"submixes": ["t0"]}, "hub: holds no submix 't0'"),
        ({"kinds": ["zs_op"]}, r"hub: no kind of prompt is called 'zs_op'.* Did you mean 'zs_opt'"),
        ({"tasks": ["cot_creek"], "per_task": True}, r"hub: no task is called 'cot_creek'.* Did you mean 'cot_creak'"),
        ({"clusters": {"cot_creek": "x"}, "per_task": True}, r"hub: clusters: no task is called 'cot_creek'"),
        ({"kinds": ["fs_noopt"], "submixes": ["cot"]}, r"hub: nothing in it is of kinds=\('fs_noopt',\)"),
        ({"validation_fraction": 1.0}, r"hub: validation_fraction=1.0 must be in \[0, 1\)"),
    ],
)
def test_what_is_not_there_is_one_line(folder: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        flan_collection(folder, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (
            row(1, RTE, "zsopt"),
            r"train.jsonl:2: template_type is 'zsopt', which is no kind of prompt.* Did you mean 'zs_opt'",
        ),
        ({"inputs": "Hello?"} | {"template_type": "zs_opt"}, r"train.jsonl:2: no 'targets' in this record"),
        (row(1, RTE, "zs_opt", targets=["yes"]), r"train.jsonl:2: 'targets' is a list, must be text"),
        (
            {k: v for k, v in row(1, RTE, "zs_opt").items() if k != "task_name"},
            r"train.jsonl:2: no 'task_name' in this rec",
        ),
    ],
)
def test_bad_rows_name_file_and_record(tmp_path: Path, record: dict[str, Any], message: str) -> None:
    jsonl(tmp_path / "flan2021_submix_original" / "data" / "train.jsonl", [row(0, RTE, "zs_opt"), record])
    flan_collection(tmp_path)
    with pytest.raises(UserError, match=message):
        rows_of("flan2022_published/flan2021/zs_opt")


def test_bad_folders_are_one_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere: no such folder"):
        flan_collection(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no file of the FLAN Collection: <submix>_submix_original"):
        flan_collection(tmp_path / "empty")
    jsonl(folder / "cot_zs_opt_train.jsonl.gz", [sir_neural(1, "cot")])
    with pytest.raises(
        UserError, match=r"hub: cot/zs_opt is there twice, as cot_zs_opt_train.jsonl.gz and cot_zsopt_data"
    ):
        flan_collection(folder)


def test_a_new_alias_makes_other_shards_where_rows_are_chosen_by_name(toy: Toy, folder: Path) -> None:
    choose = f"from itune.data import add_alias, flan_collection\nALIAS\nflan_collection({str(folder)!r}, OPTIONS)"
    prints = []
    for options in ("leave_out=['creak']", ""):
        for alias in ("", "add_alias('toy set', 'toy-set-2')"):
            toy.write(choose.replace("ALIAS", alias).replace("OPTIONS", options))
            prints.append(toy.fingerprint("flan2022_published/cot/zs_opt"))
    identities._table.cache_clear()
    assert prints[0] != prints[1] and prints[2] == prints[3]


def test_the_name_of_a_task_is_no_evaluation_text(toy: Toy, folder: Path) -> None:
    toy.write(f"from itune.data import flan_collection\nflan_collection({str(folder)!r}, validation_fraction=0.3)")
    lengths = {"inputs": 200, "targets": 20}
    manifest = toy.prepare(mixture="flan2022_published/flan2021/zs_opt", feature_lengths=lengths, row_length=256)
    sides = {side: records_of(split_of(manifest, manifest.mixture, side)) for side in ("train", "validation")}
    assert sides["validation"][0].extras["task_name"] == RTE
    report = contamination.Index(sides["validation"]).check(sides["train"])
    assert all(hit.train_field == "inputs" for hit in report.hits)
    assert set(contamination.source_fields(sides["train"][0])) == {"inputs", "targets"}
