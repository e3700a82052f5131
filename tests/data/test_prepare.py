"""Prepare, on tiny tasks with a byte tokenizer: what is written, and what is used again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import py_compile
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itune.data import prompt
from itune.data.records import (
    Record,
    Span,
    SplitWriter,
    decode_record,
    encode_record,
    example_key,
    read_completed,
    read_records,
)
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from tests.data.toy import CHAT, TASKS, Toy, make_model, records_of, split_of


def test_records_hold_prompt_reply_and_provenance(toy: Toy) -> None:
    manifest = toy.prepare()
    split = split_of(manifest, "sums/two")
    records, encode = records_of(split), toy.tokenizer().encode
    assert (split.examples, split.variants, split.skipped) == (5, 1, 0)
    record = records[3]
    assert [(s.role, s.supervised) for s in record.spans] == [("inputs", False), ("targets", True)]
    assert record.spans[0].ids.tolist() == encode("What is 3 + 3?\n")
    assert record.spans[1].ids.tolist() == [*encode("6"), 256]
    assert (record.id, record.task, record.split, record.template) == ("train-3", "sums/two", "train", "ask")
    assert (record.example, record.variant) == (3, 0)
    assert (record.inputs_text, record.targets_text) == ("What is 3 + 3?", "6")
    assert record.extras == {"question": "What is 3 + 3?", "answer": "6"}


def test_the_index_says_lengths_keys_and_places(toy: Toy) -> None:
    split = split_of(toy.prepare(variants=2), "sums/one")
    records = records_of(split)
    completed = read_completed(Path(split.dir))
    assert completed is not None
    with np.load(Path(split.dir) / "index.npz") as index:
        assert index["inputs"].tolist() == [len(r.spans[0].ids) for r in records]
        assert index["targets"].tolist() == [len(r.spans[1].ids) for r in records]
        assert index["example_key"].tolist() == [example_key("one", r.id) for r in records]
        assert index["example_key"].dtype == np.uint64
        assert [completed["template_names"][i] for i in index["template"]] == [r.template for r in records]
        assert index["offset"].tolist() == list(range(10))
        assert set(index["shard"]) == {0}


def test_completed_lists_inputs_and_digests(toy: Toy) -> None:
    split = split_of(toy.prepare(), "sums/one")
    completed = json.loads((Path(split.dir) / "COMPLETED").read_text())
    assert completed["fingerprint"] == split.fingerprint
    assert completed["inputs"]["tokenizer"] == toy.tokenizer().digest
    assert "Say: {question}" in json.dumps(completed["inputs"]["objects"])
    shard = "data-00000-of-00001.array_record"
    assert completed["sha256"][shard] == hashlib.sha256((Path(split.dir) / shard).read_bytes()).hexdigest()
    assert completed["eos"] == {"id": 256, "ends_every_target": True, "supervised": True}


def test_variants_are_other_renderings_of_the_same_example(toy: Toy) -> None:
    two = records_of(split_of(toy.prepare(variants=2), "sums/one"))
    assert [(r.example, r.variant) for r in two] == [(i // 2, i % 2) for i in range(10)]
    assert all(two[i].id == two[i + 1].id for i in range(0, 10, 2))
    assert all({two[i].template, two[i + 1].template} == {"ask", "say"} for i in range(0, 10, 2))
    one = records_of(split_of(toy.prepare(variants=1), "sums/one"))
    assert [encode_record(dataclasses.replace(r)) for r in two[::2]] == [encode_record(r) for r in one]


def test_only_replies_are_supervised_and_eos_ends_each(toy: Toy) -> None:
    for prompt_format in ("plain", "chat"):
        manifest = toy.prepare(prompt_format=prompt_format, variants=2, held_out=("held",))
        for task in manifest.tasks():
            for split in task.splits.values():
                for record in records_of(split):
                    asked, reply = record.spans
                    assert not asked.supervised and reply.supervised
                    assert reply.ids[-1] == 256 and 256 not in reply.ids[:-1] and len(reply.ids) > 1


def test_a_record_survives_its_bytes() -> None:
    span = Span(role="inputs", supervised=False, ids=np.array([1, 70000], np.int32))
    record = Record(spans=(span,), id="é", task="t", split="s", example=1, variant=2, extras={"b": "2", "a": "1"})
    again = decode_record(encode_record(record))
    assert again.spans[0].ids.tolist() == [1, 70000]
    assert encode_record(again) == encode_record(record)
    for broken in (b"", b"\x00", encode_record(record)[:-3], encode_record(record) + b"\x00"):
        with pytest.raises(ValueError, match="not a prepared record"):
            decode_record(broken)


def test_example_keys_do_not_depend_on_the_task() -> None:
    assert example_key("one", "a") == example_key("one", "a") != example_key("two", "a")
    assert example_key("one", "a") != example_key("onea", "")


# Prompt formats


def test_prompts_for_generation_are_those_of_training(toy: Toy) -> None:
    for prompt_format in ("plain", "chat"):
        for record in records_of(split_of(toy.prepare(prompt_format=prompt_format), "sums/two")):
            asked = prompt.render_prompt(toy.tokenizer(), record.inputs_text, prompt_format)
            assert asked == record.spans[0].ids.tolist()


def test_chat_uses_the_tokenizers_template(toy: Toy) -> None:
    record = records_of(split_of(toy.prepare(prompt_format="chat"), "sums/two"))[0]
    assert [span.role for span in record.spans] == ["user", "assistant"]
    assert record.spans[0].ids.tolist() == toy.tokenizer().encode("<user>What is 0 + 0?<eos><assistant>")


def _render(tokenizer: Tokenizer, prompt_format: str = "plain", **fields: Any) -> tuple[Span, Span]:
    fields = {"inputs": [1], "targets": [2], "inputs_text": "a", "targets_text": "b"} | fields
    return prompt.render_spans(tokenizer, prompt_format, **fields)


def test_a_chat_template_that_rewrites_the_prompt_is_refused(tmp_path: Path) -> None:
    rewriting = "{% if messages|length > 1 %}Earlier: {% endif %}" + CHAT
    tokenizer = Tokenizer.from_folder(make_model(tmp_path / "m", rewriting))
    with pytest.raises(UserError, match="renders a conversation with its reply differently"):
        _render(tokenizer, "chat")


def test_chat_without_a_template_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(make_model(tmp_path / "m", None))
    for use in (_render, lambda t, f: prompt.render_prompt(t, "a", f)):
        with pytest.raises(UserError, match="has no chat template"):
            use(tokenizer, "chat")
        with pytest.raises(UserError, match="Did you mean 'plain'"):
            use(tokenizer, "plian")


def test_eos_stands_once_whatever_the_pipeline_did(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(make_model(tmp_path / "m"))
    for targets in ([2], [2, 256], [2, 256, 256]):
        asked, reply = _render(tokenizer, inputs=[1, 256], targets=targets)
        assert reply.ids.tolist() == [2, 256]
        assert asked.ids.tolist() == [1, *tokenizer.encode("\n")]
    for targets in ([], [256]):
        with pytest.raises(prompt.BadRecord, match="targets are empty"):
            _render(tokenizer, targets=targets)
    with pytest.raises(prompt.BadRecord, match="EOS stands inside"):
        _render(tokenizer, targets=[2, 256, 3])


# What changes a fingerprint


def test_every_listed_change_gives_a_new_fingerprint(toy: Toy) -> None:
    first = toy.fingerprint()
    assert toy.fingerprint() == first
    longer = {"inputs": 100, "targets": 100}
    assert toy.fingerprint(feature_lengths=longer) == first
    found = [first, toy.fingerprint(variants=2), toy.fingerprint(prepare_seed=1), toy.fingerprint(prompt_format="chat")]
    for old, new in (("Say: ", "Tell: "), ("i + i)", "i * i)"), ('"say"', '"speak"')):
        assert old in TASKS
        toy.write(TASKS.replace(old, new))
        found.append(toy.fingerprint())
    toy.write(TASKS)
    make_model(toy.folder / "other", specials=("<eos>", "<more>"))
    found.append(toy.fingerprint(model="other"))
    assert len(set(found)) == len(found)
    assert toy.fingerprint() == first


def test_counting_rows_first_leaves_the_fingerprint(toy: Toy) -> None:
    first = toy.fingerprint()
    toy.write(TASKS + '    import seqio\n    seqio.TaskRegistry.get("sums/one").num_input_examples("train")\n')
    assert toy.fingerprint() == first


def test_another_tasks_template_leaves_the_fingerprint(toy: Toy) -> None:
    first = toy.fingerprint("sums/two")
    toy.write(TASKS.replace("Say: ", "Tell: "))
    assert toy.fingerprint("sums/two") == first


FILE_TASK = """
    import json, pathlib
    from itune.data import RowSource, Template, add_task
    PATH = pathlib.Path(__file__).with_name("rows.json")
    def rows(split):
        return json.loads(PATH.read_text())
    add_task("filed", source=RowSource(rows, fields=("q", "a"), files=[PATH]), templates=(Template("t", "{q}", "{a}"),),
             cluster="c", licence="CC0-1.0", identity="filed")
"""


def test_a_data_files_content_counts_and_is_a_manifest_input(toy: Toy) -> None:
    data = toy.folder / "rows.json"
    data.write_text('[{"id": "1", "q": "a", "a": "b"}]')
    toy.write(FILE_TASK)
    first = toy.fingerprint("filed", mixture="filed")
    os.utime(data)
    assert toy.fingerprint("filed", mixture="filed") == first
    manifest = toy.prepare(mixture="filed")
    assert manifest.still_valid() is None
    data.write_text('[{"id": "1", "q": "a", "a": "c"}]')
    assert manifest.still_valid() == f"{data} has changed"
    assert toy.fingerprint("filed", mixture="filed") != first
    data.unlink()
    with pytest.raises(UserError, match=r"filed.*rows.json"):
        toy.fingerprint("filed", mixture="filed")


def test_the_manifest_lists_modules_what_they_open_and_the_tokenizer(toy: Toy) -> None:
    (toy.folder / "words.txt").write_text("x")
    (toy.folder / "user_package").mkdir()
    toy.write(TASKS, "user_package/__init__")
    toy.write("import user_helper\nopen(user_helper.PATH).close()", "user_package/more")
    toy.write("from pathlib import Path\nPATH = Path(__file__).with_name('words.txt')", "user_helper")
    py_compile.compile(str(toy.folder / "user_helper.py"))  # imported from its .pyc, the source is never opened
    (toy.folder / "user_package" / "t.yaml").write_text("[]")
    manifest = toy.prepare(modules=("user_package.more",))
    listed = {entry.path.removeprefix(f"{toy.folder}/") for entry in manifest.inputs}
    package = {"user_package/", "user_package/__init__.py", "user_package/more.py", "user_package/t.yaml"}
    assert package | {"user_helper.py", "words.txt", "model/tokenizer.json", "model/tokenizer_config.json"} <= listed
    assert manifest.still_valid() is None
    (toy.folder / "user_package" / "new.py").write_text("")
    assert "files were added" in str(manifest.still_valid())


# Whole or not at all


WRITE_AND_DIE = """
import os, sys, signal
from pathlib import Path
import numpy as np
from itune.data import records
span = records.Span(role="targets", supervised=True, ids=np.arange(50, dtype=np.int32))
writer = records.SplitWriter(Path(sys.argv[1]), identity="i", private=False, shard_bytes=1000)
for i in range(20):
    writer.add(records.Record(spans=(span,), id=str(i), task="t", split="s", example=i, variant=0))
if sys.argv[2] == "sealing":
    real = records.write_atomic
    records.write_atomic = lambda *a, **k: (real(*a, **k), os.kill(os.getpid(), signal.SIGKILL))
    writer.finish({})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("moment", ["between shards", "sealing"])
def test_a_killed_writer_leaves_nothing_complete(moment: str, tmp_path: Path) -> None:
    from itune.data import prepare_task

    directory = tmp_path / "toy-00" / "train"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", WRITE_AND_DIE, str(directory), moment]
    assert subprocess.run(command, env=environment).returncode == -9
    assert not directory.exists()
    left = list(directory.parent.iterdir())
    assert len(left) == 1 and len(list(left[0].glob("data-*"))) > 1
    prepare_task.remove_all_leftovers(tmp_path)
    assert list(directory.parent.iterdir()) == []


def test_shards_roll_over_and_are_numbered(tmp_path: Path) -> None:
    span = Span(role="targets", supervised=True, ids=np.arange(50, dtype=np.int32))
    records = [
        Record(spans=(span,), id=str(i), task="t", split="s", example=i, variant=0, template=f"t{i % 3}")
        for i in range(20)
    ]
    writer = SplitWriter(tmp_path / "toy" / "train", identity="i", private=False, shard_bytes=1000)
    for record in records:
        writer.add(record)
    completed = writer.finish({"fingerprint": "00"})
    shards = sorted(path.name for path in (tmp_path / "toy" / "train").glob("data-*"))
    assert len(shards) > 2
    assert shards == [f"data-{i:05d}-of-{len(shards):05d}.array_record" for i in range(len(shards))]
    assert completed["template_names"] == ["t0", "t1", "t2"]
    assert read_records(tmp_path / "toy" / "train", range(20)) == [encode_record(r) for r in records]


def test_what_is_complete_is_used_again_and_what_is_short_is_not(toy: Toy) -> None:
    split = split_of(toy.prepare(), "sums/one")
    shard = next(Path(split.dir).glob("data-*"))
    first = (shard.stat().st_mtime_ns, shard.stat().st_ino, shard.read_bytes())
    toy.prepare()
    assert (shard.stat().st_mtime_ns, shard.stat().st_ino, shard.read_bytes()) == first
    (toy.folder / "cache" / "prepared" / Path(split.dir).parent.name / ".tmp-train-1").mkdir()
    shard.write_bytes(first[2][:-100])
    toy.prepare()
    assert shard.read_bytes() == first[2]
    assert not list((toy.folder / "cache").rglob(".tmp-*"))


def test_a_pipeline_that_is_not_reproducible_is_found_out(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write(
        """
        import os
        from itune.data import RowSource, Template, add_task
        def rows(split):
            yield {"id": "1", "q": os.environ["TOY_Q"], "a": "b"}
        def wobble(dataset):
            import tensorflow as tf
            return dataset.map(lambda row: row | {"q": tf.strings.as_string(tf.random.uniform([]))})
        T = (Template("t", "{q}", "{a}"),)
        for name, steps in (("wobbly", [wobble]), ("hidden", [])):
            add_task(name, source=RowSource(rows, fields=("q", "a")), templates=T, cluster="c", licence="CC0-1.0",
                     identity=name, preprocessors=steps)
    """
    )
    monkeypatch.setenv("TOY_Q", "one")
    with pytest.raises(UserError, match="task 'wobbly'.*record '1'.*something else"):
        toy.prepare(mixture="wobbly")
    toy.prepare(mixture="hidden")
    monkeypatch.setenv("TOY_Q", "two")
    toy.fingerprint("hidden")  # imports the module anew: a source remembers its rows
    with pytest.raises(UserError, match="task 'hidden'.*record '1'.*something else"):
        toy.prepare(mixture="hidden")


# Bad records
