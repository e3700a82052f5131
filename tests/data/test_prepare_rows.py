"""The short ways through a pipeline give the very bytes of the long one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of

PIPELINES = """
    import functools
    import seqio, tensorflow as tf
    from seqio import preprocessors as pre

    def rows(split, shuffle_files):
        count = 40 if split == "train" else 3
        texts = [f"{split} {i} " + "é" * (i % 40) for i in range(count)]
        return tf.data.Dataset.from_tensor_slices({
            "text": texts, "label": ["" if i == 5 else str(i) for i in range(count)], "number": list(range(count)),
        }).map(lambda row: row | {"list": tf.fill([row["number"] % 3], row["number"])})

    @seqio.map_over_dataset
    def sides(row):
        return {"inputs": row["text"], "targets": "<" + row["label"] + ">", "also": row["label"], "list": row["list"],
                "kept": [row["number"]], "id": tf.strings.join(["r", tf.strings.as_string(row["number"])])}

    @seqio.map_over_dataset(num_seeds=1)
    def shaken(row, seed):
        word = tf.strings.as_string(tf.random.stateless_uniform([], seed, maxval=1000, dtype=tf.int32))
        return row | {"inputs": tf.strings.join([row["inputs"], word], " ")}

    @seqio.map_over_dataset
    def upper(row):
        return row | {"targets": row["targets"] + 0}

    def lengths_matter(dataset, sequence_length):
        return dataset.filter(lambda row: tf.strings.length(row["inputs"]) < sequence_length["inputs"])

    V, PASS = seqio.ByteVocabulary(), seqio.PassThroughVocabulary(100)
    FEATURES = {
        "inputs": seqio.Feature(V, add_eos=True), "targets": seqio.Feature(V, add_eos=True),
        "also": seqio.Feature(V, add_eos=True, required=False),
        "kept": seqio.Feature(PASS, add_eos=False, required=False),
        "absent": seqio.Feature(V, required=False),
    }
    cache, tok = seqio.CacheDatasetPlaceholder(), pre.tokenize
    STEPS = {
        "plain": [sides, tok, pre.append_eos],
        "trimmed": [sides, tok, cache, pre.append_eos_after_trim],
        "together": [sides, cache, pre.tokenize_and_append_eos],
        "uncopied": [sides, functools.partial(pre.tokenize, copy_pretokenized=False), pre.append_eos],
        "eos_twice": [sides, functools.partial(pre.tokenize, with_eos=True), pre.append_eos_after_trim],
        "random": [sides, shaken, cache, shaken, tok, pre.append_eos],
        "random_cached_late": [sides, shaken, tok, cache, pre.append_eos],
        "filtered": [sides, cache, lengths_matter, tok, pre.append_eos],
        "not_at_the_end": [sides, tok, pre.append_eos, upper],
        "untokenised": [sides, tok],
    }
    for name, steps in STEPS.items():
        source = seqio.FunctionDataSource(rows, splits=["train", "validation"])
        seqio.TaskRegistry.add(name, source=source, preprocessors=steps, output_features=FEATURES)

    from itune.data import RowSource, Template, add_task
    def native(split):
        for i in range(40):
            yield {"id": f"{split}{i}", "q": f"what is {i}?\\u00e9", "a": str(i)}
    TEMPLATES = (Template("one", "{q}", "{a}"), Template("two", "Say: {q} ({id})", "{a}!"))
    add_task("native", source=RowSource(native, fields=("q", "a")), templates=TEMPLATES, cluster="c", licence="x",
             identity="n")
"""
SHORT = ("plain", "trimmed", "together", "uncopied", "eos_twice", "random", "random_cached_late", "filtered")
SHORT += ("untokenised", "native")


def _bytes(toy: Toy, task: str, cache: str, **fields: Any) -> dict[str, bytes]:
    """Every file of the task's training split; the cache is put aside as `cache`."""
    manifest = toy.prepare(mixture=task, **fields)
    split = Path(split_of(manifest, task).dir)
    found = {path.name: path.read_bytes() for path in split.iterdir()}
    (toy.folder / "cache").rename(toy.folder / cache)
    return found


@pytest.mark.parametrize("task", [*SHORT, "not_at_the_end"])
def test_the_short_way_gives_the_long_ways_bytes(task: str, toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    from itune.data import prepare_rows

    toy.write(PIPELINES)
    monkeypatch.setattr(prepare_rows, "BATCH", 16)
    cut = []
    real = prepare_rows._Tail.tokenise
    monkeypatch.setattr(prepare_rows._Tail, "tokenise", lambda *a: (cut.append(1), real(*a))[1])
    fields = {"variants": 2, "feature_lengths": {"inputs": 32, "targets": 4}}
    short = _bytes(toy, task, "short", **fields)
    assert bool(cut) == (task in SHORT)
    monkeypatch.setattr(prepare_rows, "_first_of_tail", lambda steps: None)
    monkeypatch.setattr(prepare_rows, "_rendering", lambda task: None)
    cut.clear()
    assert _bytes(toy, task, "long", **fields) == short
    assert not cut
    assert len(short) == 3


def test_text_that_is_no_utf8_is_a_bad_record_of_its_own(toy: Toy) -> None:
    toy.write("""
        import seqio, tensorflow as tf
        def rows(split, shuffle_files):
            sides = {"inputs": [b"a", b"\\xff\\xfeb", b"c", b"d"], "targets": [b"x", b"y", b"z", b"\\xe9"]}
            return tf.data.Dataset.from_tensor_slices(sides)
        FEATURES = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in ("inputs", "targets")}
        seqio.TaskRegistry.add("odd", source=seqio.FunctionDataSource(rows, splits=["train", "validation"]),
                               preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
                               output_features=FEATURES)
    """)
    with pytest.raises(UserError, match="task 'odd', split 'train', record number 1: its 'inputs' is not UTF-8 "):
        toy.prepare(mixture="odd")
    split = split_of(toy.prepare(mixture="odd", max_bad_records=2), "odd")
    assert split.skipped == 2
    assert [(r.inputs_text, r.targets_text) for r in records_of(split)] == [("a", "x"), ("c", "z")]


RESHUFFLED = """
    import seqio, tensorflow as tf
    def rows(split, shuffle_files):
        return tf.data.Dataset.from_tensor_slices({"inputs": list("abcdefgh"), "targets": list("12345678")})
    def shuffle(dataset):
        return dataset.shuffle(100, seed=3)
    FEATURES = {k: seqio.Feature(seqio.ByteVocabulary(), add_eos=True) for k in ("inputs", "targets")}
    seqio.TaskRegistry.add("mixed", source=seqio.FunctionDataSource(rows, splits=["train", "validation"]),
                           preprocessors=[shuffle, seqio.preprocessors.tokenize], output_features=FEATURES)
"""


def test_a_seeded_shuffle_is_reproducible_though_each_pass_differs(toy: Toy) -> None:
    """The look at the first examples comes after the pass that wrote them, and must begin as that one began."""
    toy.write(RESHUFFLED)
    first = records_of(split_of(toy.prepare(mixture="mixed"), "mixed"))
    assert sorted(r.inputs_text for r in first) == list("abcdefgh")
    again = records_of(split_of(toy.prepare(mixture="mixed"), "mixed"))
    assert [r.inputs_text for r in again] == [r.inputs_text for r in first]
    toy.write(RESHUFFLED.replace("seed=3", ""))
    toy.fingerprint("mixed")
    with pytest.raises(UserError, match="rendering it again gives"):
        toy.prepare(mixture="mixed")
