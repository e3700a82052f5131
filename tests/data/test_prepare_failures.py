"""One dead source among many; a full disk; a run that is killed and begun again."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from itune.data import launch, records
from itune.data.config import DataConfig
from itune.data.manifest import Manifest
from itune.data.records import NoRoom
from itune.errors import UserError
from itune.evaluation.config import EvalConfig
from tests.data.toy import Toy, make_model, split_of

ROOT = Path(__file__).parents[2]
SOME_DEAD = """
    import seqio, tensorflow as tf
    from itune.data import RowSource, Template, add_mixture, add_task, rate_by_examples
    T, RIGHTS = (Template("t", "{q}", "{a}"),), {"licence": "x"}

    def rows(split):
        return [{"id": f"{split}{i}", "q": "what", "a": "this"} for i in range(3)]
    def fails(split):
        raise OSError("the tape is torn: private words")
    def bad(split):
        return [{"id": "b7", "q": "what", "a": ""}]

    def add(name, source, **more):
        add_task(name, source=source, templates=T, identity=name, cluster=name, **RIGHTS, **more)
    add("good", RowSource(rows, fields=("q", "a")))
    add("fine", RowSource(rows, fields=("q", "a")))
    add("torn", RowSource(fails, fields=("q", "a")))
    add("quiet", RowSource(fails, fields=("q", "a")), sensitive=True)
    add("blank", RowSource(bad, fields=("q", "a")))
    add("gone", RowSource(rows, fields=("q", "a"), files=["nowhere.json"]))
    add("no_validation", RowSource(rows, splits=("train",), fields=("q", "a")))
    FEATURES = {k: seqio.Feature(seqio.ByteVocabulary()) for k in ("inputs", "targets")}
    LINES = seqio.TextLineDataSource({"train": "/none/*.txt", "validation": "/none/*"})
    seqio.TaskRegistry.add("no_files", source=LINES, preprocessors=[], output_features=FEATURES)
    add_mixture("one_dead", ["good", "torn"])
    add_mixture("many_dead", ["blank", "fine", "gone", "good", "no_files", "no_validation", "quiet", "torn"])
    add_mixture("all_dead", ["torn", "gone"])
    add_mixture("by_size", ["good", "torn"], default_rate=rate_by_examples(100))
"""
DEAD = ("blank", "gone", "no_files", "no_validation", "quiet", "torn")


def _listing(message: str) -> str:
    return Path(message.partition("listed in ")[2].partition("; ")[0]).read_text()


def test_all_tasks_are_tried_and_all_failures_told_at_once(toy: Toy) -> None:
    toy.write(SOME_DEAD)
    with pytest.raises(UserError) as caught:
        toy.prepare(mixture="many_dead")
    message = str(caught.value)
    assert "\n" not in message
    assert "6 of 8 tasks can't be prepared" in message and "on_failed_source='skip'" in message
    assert "; and 3 more: " in message
    listing = _listing(message)
    for reason in (
        "task 'torn': its source or steps raise OSError: the tape is torn",
        "task 'quiet': its source or steps raise OSError (the message is withheld, the task is sensitive)",
        "task 'blank', split 'train', record 'b7': its targets are empty (1 bad; DataConfig.max_bad_records=0 may be",
        "task 'gone': nowhere.json: no such file",
        "task 'no_files', split 'train': no file fits '/none/*.txt'",
        "task 'no_validation' is to be evaluated (held_in), split 'validation', but it has only 'train'",
    ):
        assert reason in listing
    assert "Traceback" in listing and "in fails" in listing
    assert sum(line.startswith("task ") for line in listing.splitlines()) == len(DEAD)
    assert toy.log.getvalue().count("FAILED") == 3, "the other three are known before anything is prepared"
    prepared = {path.parents[1].name.rpartition("-")[0] for path in (toy.folder / "cache").rglob("COMPLETED")}
    assert prepared == {"fine", "good", "no_validation"}


def test_one_failure_is_told_by_itself(toy: Toy) -> None:
    toy.write(SOME_DEAD)
    with pytest.raises(UserError, match=r"^task 'torn': .* the tape is torn: private words \(all else is prepared: "):
        toy.prepare(mixture="one_dead")
    with pytest.raises(UserError, match="^task 'torn': .*private words$"):
        toy.prepare(mixture="torn")


def test_skip_goes_on_without_them_and_says_so(toy: Toy) -> None:
    from itune.data.prepare_progress import summary

    toy.write(SOME_DEAD)
    manifest = toy.prepare(mixture="many_dead", on_failed_source="skip")
    assert [task.name for task in manifest.train] == ["fine", "good", "no_validation"]
    assert [task.name for task in manifest.held_in] == ["fine", "good"]
    assert {(entry.name, *entry.groups) for entry in manifest.failed} == {
        *((name, "train", "held_in") for name in DEAD if name != "no_validation"),
        ("no_validation", "held_in"),
    }
    path = toy.folder / "manifest.json"
    manifest.save(path)
    assert Manifest.load(path) == manifest
    said = "\n".join(summary(manifest))
    assert "WARNING: going on without 6 tasks" in said and "the tape is torn" in said
    assert "prepare: WARNING: going on without 6 tasks" in toy.log.getvalue()


def test_a_group_that_is_left_empty_stops_even_so(toy: Toy) -> None:
    toy.write(SOME_DEAD)
    with pytest.raises(UserError, match=r"2 of 2 tasks can't.*leaves nothing to train on \(train, held_in\)"):
        toy.prepare(mixture="all_dead", on_failed_source="skip")
    with pytest.raises(UserError, match=r"leaves nothing to evaluate \(held_out\)"):
        toy.prepare(mixture="good", held_out=("torn",), on_failed_source="skip")


def test_a_rate_that_its_dead_source_should_tell_is_such_a_failure(toy: Toy) -> None:
    toy.write(SOME_DEAD)
    with pytest.raises(UserError, match=r"the rate of 'torn' cannot be worked out: OSError: the tape is torn"):
        toy.prepare(mixture="by_size")
    assert [t.name for t in toy.prepare(mixture="by_size", on_failed_source="skip").train] == ["good"]


def test_the_list_goes_once_all_is_well(toy: Toy) -> None:
    toy.write(SOME_DEAD)
    with pytest.raises(UserError):
        toy.prepare(mixture="one_dead")
    (listing,) = (toy.folder / "cache" / "prepared").glob("failures-*.txt")
    toy.write(SOME_DEAD.replace('raise OSError("the tape is torn: private words")', "return rows(split)"))
    toy.fingerprint("good")
    toy.prepare(mixture="one_dead")
    assert not listing.exists()


def test_a_run_keeps_to_its_tasks_and_prepare_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that import SeqIO."""
    make_model(tmp_path / "model")
    (tmp_path / "user_tasks.py").write_text(
        textwrap.dedent(SOME_DEAD).replace('["good", "torn"]', '["good", "gone"]', 1)
    )
    monkeypatch.chdir(tmp_path)
    data = DataConfig(mixture="one_dead", modules=("user_tasks",), on_failed_source="skip")
    lines: list[str] = []

    def ensure(retry: bool) -> list[str]:
        lines.clear()
        found = launch.ensure_prepared(
            data, EvalConfig(), tmp_path / "model", cache=tmp_path / "cache", echo=lines.append, retry=retry
        )
        return [task.name for task in found.train]

    assert ensure(retry=False) == ["good"]
    (tmp_path / "nowhere.json").write_text("{}")
    assert ensure(retry=False) == ["good"]
    assert lines[0].startswith("WARNING: going on without 1 tasks")
    assert ensure(retry=True) == ["gone", "good"]


# A full disk

FILL = """
    import itertools
    from itune.data import RowSource, Template, add_mixture, add_task
    def rows(split):
        for i in range(4000):
            yield {"id": f"{split}{i}", "q": " ".join(str(hash((i, j)) % 10**9) for j in range(30)), "a": "this"}
    for name in ("big", "next"):
        add_task(name, source=RowSource(rows, fields=("q", "a")), cluster=name, licence="x",
                 templates=(Template("t", "{q}", "{a}"),), identity=name)
    add_mixture("both", ["big", "next"])
"""


def _refuse(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("what", ["shard", "index", "COMPLETED"])
def test_a_full_disk_stops_at_once_and_leaves_nothing_complete(what: str, toy: Toy) -> None:
    """For the shard, the system refuses files above a size, as it refuses all on a full disk but for the number."""
    toy.write(FILL)
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    patch = pytest.MonkeyPatch()
    if what != "shard":
        patch.setattr(records.np if what == "index" else records, *_refused(what))
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000 if what == "shard" else before[0], before[1]))
        with pytest.raises(NoRoom) as caught:
            toy.prepare(mixture="both", on_failed_source="skip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
        patch.undo()
    message = str(caught.value)
    assert message.startswith("task 'big', split 'train': no room on the disk of ")
    assert "this split needs about" in message and " of 4,000 examples" in message
    assert not list((toy.folder / "cache").rglob("COMPLETED"))
    assert not list((toy.folder / "cache").rglob("data-*"))
    assert "next" not in toy.log.getvalue()
    assert split_of(toy.prepare(mixture="both"), "big").examples == 4000


def _refused(what: str) -> tuple[str, object]:
    if what == "index":
        return "savez", _refuse
    real = records.write_atomic
    return "write_atomic", lambda path, *a, **k: _refuse() if path.name == what else real(path, *a, **k)


# Killed

SLOW = """
    import time
    from itune.data import RowSource, Template, add_mixture, add_task
    def rows(split):
        for i in range(3):
            yield {"id": f"{split}{i}", "q": "what", "a": str(i)}
    def wait(split):
        while (pathlib.Path(__file__).parent / "hold").exists():
            time.sleep(0.05)
        yield from rows(split)
    import pathlib
    for number in range(6):
        add_task(f"t{number}", source=RowSource(wait if number > 3 else rows, fields=("q", "a")), cluster="c",
                 templates=(Template("t", "{q}", "{a}"),), licence="x", identity=f"t{number}")
    add_mixture("all", [f"t{number}" for number in range(6)])
"""
POOL = """
import json, sys
from itune.data import prepare, prepare_pool
from itune.data.manifest import Request
if __name__ == "__main__":
    prepare_pool.INLINE_SECONDS = -1.0
    manifest = prepare.run(Request(**json.load(open(sys.argv[1]))), sys.stderr)
    print(len(manifest.train))
"""


def _shards(cache: Path) -> dict[str, tuple[int, str]]:
    found = (cache / "prepared").glob("*/train/*")
    return {str(p.relative_to(cache)): (p.stat().st_ino, hashlib.sha256(p.read_bytes()).hexdigest()) for p in found}


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [child for number in listed for child in (int(number), *_children(int(number)))]


def _wait_for(what: str, true: object) -> None:
    for _ in range(1200):
        if true():  # type: ignore[operator]
            return
        time.sleep(0.1)
    raise AssertionError(what)


@pytest.mark.slow
def test_a_pool_killed_in_the_middle_is_taken_up_where_it_was(toy: Toy) -> None:
    """Starts six processes, two of them killed with their parent."""
    import dataclasses

    toy.write(SLOW)
    toy.write(POOL, "run_pool")
    (toy.folder / "hold").touch()
    asked = toy.folder / "request.json"
    asked.write_text(json.dumps(dataclasses.asdict(toy.request(mixture="all", workers=2, eval_split="train"))))
    command = [sys.executable, str(toy.folder / "run_pool.py"), str(asked)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    cache = toy.folder / "cache"
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _wait_for("four tasks are finished", lambda: len(list(cache.rglob("COMPLETED"))) == 4)
        workers = _children(process.pid)
        assert len(workers) >= 2
        first = _shards(cache)
    finally:
        process.kill()
        process.wait()
    _wait_for("the workers end with their parent", lambda: not any(_alive(pid) for pid in workers))
    assert {name.split("/")[1][:2] for name in first} == {"t0", "t1", "t2", "t3"}
    (toy.folder / "hold").unlink()
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.stdout.strip() == "6", again.stderr
    second = _shards(cache)
    assert {name: second[name] for name in first} == first
    (cache / "prepared").rename(toy.folder / "before")
    assert len(toy.prepare(mixture="all", eval_split="train").train) == 6
    assert {n: d for n, (_, d) in _shards(cache).items()} == {n: d for n, (_, d) in second.items()}


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
