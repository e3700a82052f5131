"""Prepare, when records, sources, modules or groups are wrong; and in processes of its own."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from itune.data import launch
from itune.data.config import DataConfig
from itune.data.manifest import Manifest
from itune.errors import UserError
from itune.evaluation.config import EvalConfig
from tests.data.toy import TASKS, Toy, make_model, modes, records_of, split_of

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
    with pytest.raises(UserError, match="^task 'empty', split 'train', record 'r2': its targets are empty "):
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


PLACED = """
    import seqio, tensorflow as tf
    from pathlib import Path
    from itune.data import JsonSource, Template, add_task
    HERE = Path(__file__).parent
    ROWS = JsonSource(HERE / "rows.jsonl", fields=("q", "a"), split_by=("q",), identity="p", validation_fraction=0.0)
    add_task("placed", source=ROWS, templates=(Template("t", "{q}", "{a}"),), cluster="c", licence="x", identity="p")
    FEATURES = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in ("inputs", "targets")}
    def parts(line):
        fields = tf.strings.split(line, "=")
        return {"inputs": fields[0], "targets": fields[1]}
    LINES = seqio.TextLineDataSource({"train": str(HERE / "lines.txt")}, skip_header_lines=1)
    seqio.TaskRegistry.add("lines", source=LINES, output_features=FEATURES,
                           preprocessors=[lambda lines: lines.map(parts), seqio.preprocessors.tokenize])
"""


CONVERSATIONS = """
    from pathlib import Path

    from itune.data import openai_task

    HERE = Path(__file__).parent
    openai_task("talk", path=str(HERE / "talk.jsonl"), licence="none", turns="all")
"""


def test_a_bad_conversation_is_told_with_file_and_line(toy: Toy) -> None:
    toy.write(CONVERSATIONS)
    talk = [[("user", f"question {i}"), ("assistant", "<eos> no" if i == 2 else "yes")] for i in range(4)]
    rows = [{"messages": [{"role": role, "content": text} for role, text in turns]} for turns in talk]
    (toy.folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"record '\w+' at .*talk.jsonl:3: EOS stands inside its targets"):
        toy.prepare(mixture="talk", eval_split="train")


def test_a_bad_record_of_a_file_is_told_with_file_and_line(toy: Toy) -> None:
    toy.write(PLACED)
    rows = [{"q": f"question {i}", "a": "" if i == 3 else "yes"} for i in range(6)]
    (toy.folder / "rows.jsonl").write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(UserError, match=r"record '\w+' at .*rows.jsonl:5: its targets are empty"):
        toy.prepare(mixture="placed", eval_split="train")
    (toy.folder / "lines.txt").write_text("header\na=b\nno equals sign\nc=d\n")
    with pytest.raises(UserError, match=r"record number 1 at .*lines.txt:3: its pipeline fails: "):
        toy.prepare(mixture="lines", eval_split="train")


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
        (('"apart"', '"sums"'), "its cluster is 'sums'"),
        (('"three"', '"two"'), "'sums/two': its source is 'two'"),
        (('"sums", ["sums/one",', '"sums", ["sums/one", "held",'), "'held'$"),
    ],
)
def test_what_is_held_out_is_not_trained_on(change: tuple[str, str], what: str | None, toy: Toy) -> None:
    assert what is None or change[0] in TASKS
    toy.write(TASKS.replace(*change))
    if what is None:
        toy.prepare(held_out=("held",))
        return
    with pytest.raises(UserError, match=f"held_out: task 'held' is held out, but .* mixture 'sums' > .*{what}"):
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
    from itune.data import prepare_pool

    toy.prepare()
    inline = _contents(toy.folder / "cache")
    (toy.folder / "cache" / "prepared").rename(toy.folder / "before")
    monkeypatch.setattr(prepare_pool, "INLINE_SECONDS", -1.0)
    toy.prepare(workers=2)
    assert len(inline) == 12
    assert _contents(toy.folder / "cache") == inline


def test_workers_tell_how_far_they_are(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Starts two processes that import SeqIO."""
    from itune.data import prepare_pool
    from itune.data.prepare_progress import ProgressBar

    seen: list[tuple[str, str, int]] = []
    monkeypatch.setattr(prepare_pool, "INLINE_SECONDS", -1.0)
    monkeypatch.setattr(ProgressBar, "examples", lambda self, *report: seen.append(report))
    toy.write(TASKS.replace("5 if split", "250 if split"))
    toy.prepare(workers=2)
    assert set(seen) == {(task, "train", count) for task in ("sums/one", "sums/two") for count in (100, 200)}
    assert "prepare: 2/2 sums/" in toy.log.getvalue()


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_bar_counts_the_examples_of_all_tasks() -> None:
    from itune.data.manifest import PreparedSplit
    from itune.data.prepare_failures import Failure
    from itune.data.prepare_progress import ProgressBar

    stream = _Terminal()
    with ProgressBar(stream, {"one": 1, "two": 2, "dead": 1}) as bar:
        bar.examples("one", "train", 300)
        bar.examples("two", "train", 1200)
        (task,) = bar._bar.tasks
        assert (task.completed, task.total, task.description) == (0, 4, "1,500 examples; two train 1,200")
        split = PreparedSplit(dir="", fingerprint="", examples=400, variants=1, skipped=0)
        bar.finished("one", {"train": split})
        bar.finished("dead", Failure(task="dead", reason="task 'dead': no [source]"))
        assert (task.completed, task.description[:14]) == (2, "1,600 examples")
    assert "FAILED task 'dead': no [source]" in stream.getvalue()


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
