"""Prepare, on tiny tasks with a byte tokenizer. SeqIO loads once for most of this file; two tests start processes."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import io
import json
import os
import py_compile
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from itune.data import launch, prompt
from itune.data.config import DataConfig
from itune.data.manifest import DigestCache, Manifest, PreparedSplit, Request
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
from itune.evaluation.config import EvalConfig

CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}<eos>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
TASKS = """
    from itune.data import RowSource, Template, add_mixture, add_task

    def rows(split):
        for i in range(5 if split == "train" else 2):
            yield {"id": f"{split}-{i}", "question": f"What is {i} + {i}?", "answer": str(i + i)}

    def source():
        return RowSource(rows, fields=("question", "answer"))

    ASK = Template("ask", "{question}", "{answer}")
    SAY = Template("say", "Say: {question}", "It is {answer}.")
    RIGHTS = {"licence": "CC0-1.0"}
    add_task("sums/one", source=source(), templates=(ASK, SAY), cluster="sums", identity="one", **RIGHTS)
    add_task("sums/two", source=source(), templates=(ASK,), cluster="sums", identity="two", **RIGHTS)
    add_task("held", source=source(), templates=(ASK,), cluster="apart", identity="three", **RIGHTS)
    add_task("secret", source=source(), templates=(ASK,), cluster="private", identity="four", sensitive=True, **RIGHTS)
    add_mixture("sums", ["sums/one", ("sums/two", 2.0)])
"""


def make_model(folder: Path, chat_template: str | None = CHAT, specials: tuple[str, ...] = ("<eos>",)) -> Path:
    """A folder with a tokenizer of single bytes; EOS is 256."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(specials))
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<eos>"} | ({"chat_template": chat_template} if chat_template else {})
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """SeqIO's and itune's registries, emptied for the test and put back."""
    import seqio

    from itune.data import registry

    monkeypatch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
    monkeypatch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
    monkeypatch.setattr(registry, "TASKS", {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


class Toy:
    """A project folder with a task module and a model; asks prepare for things in this process."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.log = io.StringIO()
        make_model(folder / "model")
        self.write(TASKS)

    def write(self, source: str, name: str = "user_tasks") -> None:
        (self.folder / f"{name}.py").write_text(textwrap.dedent(source))
        importlib.invalidate_caches()

    def request(self, **fields: Any) -> Request:
        evaluation = {n: fields.pop(n) for n in ("held_in", "held_out") if n in fields}
        others = {n: fields.pop(n) for n in ("max_bad_records", "workers", "eval_split") if n in fields}
        fields = {"mixture": "sums", "modules": ("user_tasks",)} | fields
        model = self.folder / fields.pop("model", "model")
        request = Request.from_config(
            DataConfig(**fields), EvalConfig(**evaluation), model, cache=self.folder / "cache"
        )
        return dataclasses.replace(request, **{"workers": 1, "directory": str(self.folder)} | others)

    def prepare(self, **fields: Any) -> Manifest:
        from itune.data import prepare

        return prepare.run(self.request(**fields), self.log)

    def fingerprint(self, task: str = "sums/one", **fields: Any) -> str:
        """Of a task as the module now has it."""
        import seqio

        from itune.data import prepare, prepare_task, registry

        for known in (seqio.TaskRegistry._REGISTRY, seqio.MixtureRegistry._REGISTRY, registry.TASKS):
            known.clear()
        sys.modules.pop("user_tasks", None)
        request = self.request(**fields)
        prepare.import_modules(request)
        tokenizer = Tokenizer.from_folder(Path(request.model_folder))
        return prepare_task.PreparableTask(task, request, tokenizer, DigestCache(self.folder / "d.json")).fingerprint

    def tokenizer(self) -> Tokenizer:
        return Tokenizer.from_folder(self.folder / "model")


@pytest.fixture
def toy(tmp_path: Path, registries: None, monkeypatch: pytest.MonkeyPatch) -> Toy:
    # Two versions of a module within a second, of one size, would share a .pyc.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return Toy(tmp_path)


def split_of(manifest: Manifest, task: str, split: str = "train") -> PreparedSplit:
    return next(t for t in manifest.tasks() if t.name == task and split in t.splits).splits[split]


def records_of(split: PreparedSplit) -> list[Record]:
    numbers = range(split.examples * split.variants)
    return [decode_record(data) for data in read_records(Path(split.dir), numbers)]


def modes(folder: Path) -> set[str]:
    return {oct(stat.S_IMODE(path.stat().st_mode)) for path in [folder, *folder.rglob("*")]}


# Records


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


BAD = """
    import seqio, tensorflow as tf
    from itune.data import RowSource, Template, add_task
    T = (Template("t", "{q}", "{a}"),)
    def rows(split):
        for i in range(4):
            yield {"id": f"r{i}", "q": f"private words {i}", "a": "" if i == 2 else "b"}
    def fail(dataset):
        def check(q):
            if q.endswith(b"2"):
                raise KeyError("no such thing")
            return q
        checked = lambda q: tf.ensure_shape(tf.numpy_function(check, [q], tf.string), [])
        return dataset.map(lambda row: row | {"q": checked(row["q"])})
    def full(split):
        return [row | {"a": "b"} for row in rows(split)]
    RIGHTS = {"cluster": "c", "licence": "CC0-1.0"}
    add_task("empty", source=RowSource(rows, fields=("q", "a")), templates=T, identity="e", **RIGHTS)
    add_task("failing", source=RowSource(full, fields=("q", "a")), templates=T, identity="f", preprocessors=[fail],
             **RIGHTS)
    add_task("quiet", source=RowSource(full, fields=("q", "a")), templates=T, identity="q", preprocessors=[fail],
             sensitive=True, **RIGHTS)
    def dying(split, shuffle_files):
        def generate():
            yield {"inputs": "a", "targets": "b"}
            raise ValueError("the disk is gone")
        spec = {k: tf.TensorSpec([], tf.string) for k in ("inputs", "targets")}
        return tf.data.Dataset.from_generator(generate, output_signature=spec)
    FEATURES = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in ("inputs", "targets")}
    seqio.TaskRegistry.add("dying", source=seqio.FunctionDataSource(dying, splits=["train", "validation"]),
                           preprocessors=[seqio.preprocessors.tokenize], output_features=FEATURES)
"""


def test_a_bad_record_stops_with_its_task_split_and_id(toy: Toy) -> None:
    toy.write(BAD)
    with pytest.raises(UserError, match="^task 'empty', split 'train', record 'r2': its targets are empty$"):
        toy.prepare(mixture="empty")
    with pytest.raises(UserError, match=r"task 'failing', split 'train', record number 2 \(id 'r2'\).*no such thing"):
        toy.prepare(mixture="failing")
    assert not list((toy.folder / "cache").rglob("COMPLETED"))


@pytest.mark.parametrize("task", ["empty", "failing"])
def test_bad_records_within_the_limit_are_left_out_and_counted(task: str, toy: Toy) -> None:
    toy.write(BAD)
    split = split_of(toy.prepare(mixture=task, max_bad_records=1, variants=2), task)
    assert (split.examples, split.skipped) == (3, 1)
    records = records_of(split)
    assert [(r.id, r.example, r.variant) for r in records] == [
        (name, i, v) for i, name in enumerate(("r0", "r1", "r3")) for v in range(2)
    ]
    assert "(1 bad skipped)" in toy.log.getvalue()
    with pytest.raises(UserError, match="without 1 bad examples"):
        toy.prepare(mixture=task, variants=2)


def test_a_source_that_dies_is_never_taken_for_its_end(toy: Toy) -> None:
    toy.write(BAD)
    for limit in (0, 3):
        with pytest.raises(UserError, match="task 'dying', split 'train'"):
            toy.prepare(mixture="dying", max_bad_records=limit)


def test_a_sensitive_tasks_text_is_in_no_message(toy: Toy) -> None:
    toy.write(BAD)
    with pytest.raises(UserError, match="message is withheld") as caught:
        toy.prepare(mixture="quiet")
    assert "no such thing" not in str(caught.value)
    assert "private words" not in toy.log.getvalue()


# Sensitive tasks


def test_sensitive_shards_are_private_and_others_are_not(toy: Toy) -> None:
    before = os.umask(0o022)
    try:
        manifest = toy.prepare(mixture="secret", held_in=("sums/one",))
        assert modes(Path(split_of(manifest, "secret").dir).parent) == {"0o700", "0o600"}
        assert modes(Path(split_of(manifest, "sums/one", "validation").dir).parent) == {"0o755", "0o644"}
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
    assert manifest.sensitive
    assert not toy.prepare().sensitive


def test_a_task_marked_sensitive_later_is_closed_then(toy: Toy) -> None:
    toy.write(TASKS.replace("sensitive=True", "sensitive=False"))
    toy.fingerprint()
    folder = Path(split_of(toy.prepare(mixture="secret"), "secret").dir)
    assert modes(folder) != {"0o700", "0o600"}
    toy.write(TASKS)
    toy.fingerprint()
    assert Path(split_of(toy.prepare(mixture="secret"), "secret").dir) == folder
    assert modes(folder.parent) == {"0o700", "0o600"}
    assert json.loads((folder / "COMPLETED").read_text())["sensitive"] is True


# Which tasks and splits


def test_rates_and_groups_reach_the_manifest(toy: Toy) -> None:
    manifest = toy.prepare(held_out=("held",))
    assert [(t.name, t.rate, sorted(t.splits)) for t in manifest.train] == [
        ("sums/one", 1.0, ["train", "validation"]),
        ("sums/two", 2.0, ["train", "validation"]),
    ]
    assert [t.name for t in manifest.held_in] == ["sums/one", "sums/two"]
    assert [(t.name, list(t.splits)) for t in manifest.held_out] == [("held", ["validation"])]
    assert manifest.tokenizer == toy.tokenizer().digest
    assert (manifest.train[0].cluster, manifest.train[0].metrics) == ("sums", ["exact_match"])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (("nothing", "nothing"), None),
        (('"apart"', '"sums"'), "cluster 'sums'"),
        (('"three"', '"two"'), "identity 'two'"),
        (('"sums", ["sums/one",', '"sums", ["sums/one", "held",'), "'held'"),
    ],
)
def test_what_is_held_out_is_not_trained_on(change: tuple[str, str], what: str | None, toy: Toy) -> None:
    assert what is None or change[0] in TASKS
    toy.write(TASKS.replace(*change))
    if what is None:
        toy.prepare(held_out=("held",))
        return
    with pytest.raises(UserError, match=f"held_out: task 'held' is held out, but .* 'sums' holds .*{what}"):
        toy.prepare(held_out=("held",))


def test_a_split_that_a_task_lacks_is_named_with_those_it_has(toy: Toy) -> None:
    with pytest.raises(UserError, match=r"'sums/one' is to be trained on, split 'test', but"):
        toy.prepare(split="test")
    with pytest.raises(
        UserError, match=r"'sums/one' is to be evaluated \(held_in\), split 'dev', .*'train', 'validation'"
    ):
        toy.prepare(eval_split="dev")


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("user_absent", "there is no module 'user_absent'"),
        ("user_broken", "importing 'user_broken' fails: ZeroDivisionError"),
        ("user_needy", "importing 'user_needy' fails: No module named 'user_nothing'"),
        ("user_refusing", "module 'user_refusing': task 'sums/one' is registered already"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named(module: str, message: str, toy: Toy) -> None:
    toy.write("1 / 0", "user_broken")
    toy.write("import user_nothing", "user_needy")
    toy.write(TASKS, "user_refusing")
    with pytest.raises(UserError, match=message):
        toy.prepare(modules=("user_tasks", module))


def test_a_seqio_task_from_elsewhere_runs_unchanged(toy: Toy) -> None:
    toy.write(
        """
        import seqio, tensorflow as tf
        def dataset(split, shuffle_files):
            return tf.data.Dataset.from_tensor_slices({"inputs": ["a", "b"], "targets": ["x", "yy"], "score": [1, 2]})
        FEATURES = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in ("inputs", "targets")}
        for name, steps in (("with_eos", [seqio.preprocessors.append_eos]), ("without", [])):
            seqio.TaskRegistry.add(
                name, source=seqio.FunctionDataSource(dataset, splits=["train", "validation"]),
                preprocessors=[seqio.preprocessors.tokenize, seqio.CacheDatasetPlaceholder(), *steps],
                output_features=FEATURES)
    """
    )
    encode = toy.tokenizer().encode
    for task in ("with_eos", "without"):
        manifest = toy.prepare(mixture=task)
        records = records_of(split_of(manifest, task))
        assert [r.id for r in records] == ["0", "1"]
        assert records[1].spans[0].ids.tolist() == encode("b\n")
        assert records[1].spans[1].ids.tolist() == [*encode("yy"), 256]
        assert records[1].extras == {"score": "2"}
        assert (manifest.train[0].cluster, manifest.train[0].identity) == ("other", task)


# Processes


def _contents(cache: Path) -> dict[str, bytes]:
    prepared = cache / "prepared"
    files = [p for p in prepared.glob("*/*/*") if p.is_file()]
    return {str(path.relative_to(prepared)): path.read_bytes() for path in files}


def test_workers_write_the_same_bytes(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts two processes that import SeqIO."""
    from itune.data import prepare

    toy.prepare()
    inline = _contents(toy.folder / "cache")
    (toy.folder / "cache" / "prepared").rename(toy.folder / "before")
    monkeypatch.setattr(prepare, "INLINE_SECONDS", -1.0)
    toy.prepare(workers=2)
    assert len(inline) == 12
    assert _contents(toy.folder / "cache") == inline


def test_a_trainer_gets_its_manifest_without_seqio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts one process that imports SeqIO, and one that mustn't."""
    make_model(tmp_path / "model")
    (tmp_path / "user_tasks.py").write_text(textwrap.dedent(TASKS))
    monkeypatch.chdir(tmp_path)
    lines: list[str] = []

    def ensure(echo: Callable[[str], None] = lines.append) -> Manifest:
        data = DataConfig(mixture="sums", modules=("user_tasks",))
        evaluation = EvalConfig(held_out=("held",))
        return launch.ensure_prepared(data, evaluation, tmp_path / "model", cache=tmp_path / "cache", echo=echo)

    first = ensure()
    assert lines[0] == "preparing 'sums': not prepared before"
    assert "prepare: 1/3 sums/one: train 5, validation 2" in lines
    started = time.monotonic()
    assert ensure() == first
    assert time.monotonic() - started < 0.5
    assert len(lines) == 4
    program = (
        "import sys\nfrom itune.data import launch, manifest, prompt, records, prepare\n"
        "print([m for m in ('seqio', 'tensorflow', 'jax') if m in sys.modules])"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert answer.stdout.strip() == "[]", answer.stderr
