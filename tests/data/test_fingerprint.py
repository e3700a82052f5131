"""Fingerprints: what changes them, what doesn't, and what can't be told. No SeqIO here."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import re
import subprocess
import sys
import textwrap
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itune.data.fingerprint import Describer, describe_task, digest
from itune.data.templates import Template
from itune.errors import UserError


def fingerprint(value: Any, version: str | None = None) -> str:
    describer = Describer("toy", version)
    root = describer.describe(value, "value")
    return digest([root, describer.objects, describer.versions])


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., types.ModuleType]:
    """Writes a module's source, each time to a folder of its own, and imports it under the same name."""

    def _load(source: str, name: str = "user_module") -> types.ModuleType:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = folder / f"{name}.py"
        path.write_text(textwrap.dedent(source))
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    return _load


@pytest.fixture(autouse=True)
def _forget_modules() -> Any:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("user_"):
            del sys.modules[name]


BASE = """
    import functools
    import re
    LIMIT = 3
    NAMES = {"a": 1}
    PATTERN = re.compile("x+")

    def helper(text):
        return text.strip()

    def step(text, suffix="."):
        return [helper(t) + suffix for t in PATTERN.split(text)][:LIMIT] + list(NAMES)

    def make(word):
        def inner(text):
            return text + word
        return inner

    class Cleaner:
        def __init__(self, size):
            self.size = size
        def __call__(self, text):
            return text[:self.size]

    def outer(text):
        return [(lambda t: helper(t))(text) for _ in range(LIMIT)]
"""
CHANGES = {
    "the function itself": ("+ suffix for", "+ suffix * 2 for"),
    "a default": ('suffix="."', 'suffix="!"'),
    "a global number": ("LIMIT = 3", "LIMIT = 4"),
    "a global dict": ('{"a": 1}', '{"a": 2}'),
    "a global pattern": ('"x+"', '"y+"'),
    "a function that it calls": ("text.strip()", "text.lstrip()"),
}


def test_the_same_source_elsewhere_has_the_same_fingerprint(load: Callable[..., types.ModuleType]) -> None:
    first, second = load(BASE), load(BASE)
    assert first.__file__ != second.__file__
    for pick in (lambda m: m.step, lambda m: m.make("x"), lambda m: m.Cleaner(3), lambda m: m.outer):
        assert fingerprint(pick(first)) == fingerprint(pick(second))


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_of_what_a_function_depends_on_is_noticed(what: str, load: Callable[..., types.ModuleType]) -> None:
    old, new = CHANGES[what]
    assert old in BASE
    assert fingerprint(load(BASE).step) != fingerprint(load(BASE.replace(old, new)).step)


def test_a_function_called_from_inside_a_lambda_counts(load: Callable[..., types.ModuleType]) -> None:
    changed = BASE.replace("text.strip()", "text.lstrip()")
    assert fingerprint(load(BASE).outer) != fingerprint(load(changed).outer)


def test_bound_values_count(load: Callable[..., types.ModuleType]) -> None:
    module = load(BASE)
    values = [
        module.make("x"),
        module.make("y"),
        functools.partial(module.step, suffix="x"),
        functools.partial(module.step, suffix="y"),
        functools.partial(module.step, "x"),
        module.Cleaner(1),
        module.Cleaner(2),
        module.Cleaner(1).__call__,
        functools.lru_cache(module.step),
        re.compile("a"),
        re.compile("a", re.IGNORECASE),
        {1: "a"},
        [1, "a"],
        (1, "a"),
        1,
        1.0,
        True,
        "1",
        b"1",
    ]
    found = [fingerprint(value) for value in values]
    assert len(set(found)) == len(values)
    assert found[0] == fingerprint(module.make("x"))


def test_functions_of_the_users_other_modules_count(load: Callable[..., types.ModuleType]) -> None:
    user = "import user_helpers\ndef step(text):\n    return user_helpers.clean(text)\n"
    found = set()
    for body in ("text.strip()", "text.lower()"):
        load(f"def clean(text):\n    return {body}\n", "user_helpers")
        found.add(fingerprint(load(user).step))
    load("def clean(text):\n    return text.strip()\n\ndef unused():\n    return 1\n", "user_helpers")
    found.add(fingerprint(load(user).step))
    assert len(found) == 2


def test_two_lambdas_on_one_line_differ() -> None:
    first, second = (lambda x: x + 1), (lambda x: x + 2)  # fmt: skip
    assert fingerprint(first) != fingerprint(second)


def test_a_method_of_a_users_class_counts(load: Callable[..., types.ModuleType]) -> None:
    changed = BASE.replace("text[:self.size]", "text[-self.size:]")
    assert fingerprint(load(BASE).Cleaner(1)) != fingerprint(load(changed).Cleaner(1))


def test_library_code_is_known_by_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    before = fingerprint(yaml.safe_load)
    describer = Describer("toy", None)
    describer.describe(yaml.safe_load, "value")
    assert describer.versions["PyYAML"]
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.0.test")
    assert fingerprint(yaml.safe_load) != before


def _without_source() -> Any:
    return eval("lambda text: text")


def _over_a_lock() -> Any:
    lock = threading.Lock()
    return lambda: lock.acquire()


def _over_a_generator() -> Any:
    rows = (i for i in range(3))
    return lambda: rows


def _in_c_of_no_distribution() -> Any:
    return types.SimpleNamespace(reader=iter([1]).__next__)


@pytest.mark.parametrize("make", [_without_source, _over_a_lock, _over_a_generator, _in_c_of_no_distribution])
def test_what_cannot_be_described_is_an_error_that_version_lifts(make: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=r"task 'toy': can't tell whether value.* version="):
        fingerprint(make())
    assert fingerprint(make(), version="1") == fingerprint(make(), version="1")
    assert fingerprint(make(), version="1") != fingerprint(make(), version="2")


def test_the_error_names_the_closure_variable() -> None:
    with pytest.raises(UserError, match="closure variable 'lock'.*_thread.lock"):
        fingerprint(_over_a_lock())


def test_values_that_hold_themselves_end() -> None:
    loop: list[Any] = [1]
    loop.append(loop)

    def recursive(n: int) -> int:
        return recursive(n - 1)

    assert fingerprint(loop) == fingerprint(loop)
    assert fingerprint(recursive) == fingerprint(recursive)


def test_other_processes_with_other_hash_seeds_agree(tmp_path: Path) -> None:
    (tmp_path / "user_seeds.py").write_text(
        textwrap.dedent("""
        from itune.data.fingerprint import Describer, digest
        WORDS = {"alpha", "beta", "gamma", "delta"}
        def step(text, drop=frozenset("abcdefgh")):
            return text in {"one", "two", "three", "four"} and text in WORDS
        describer = Describer("toy", None)
        print(digest([describer.describe([step, object], "value"), describer.objects]))
    """)
    )
    root = str(Path(__file__).parents[2])
    found = set()
    for seed in ("0", "1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": root}
        command = [sys.executable, str(tmp_path / "user_seeds.py")]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


# Whole tasks


@dataclasses.dataclass
class FakeFeature:
    vocabulary: Any = None
    add_eos: bool = True


def _plain_step(dataset: Any) -> Any:
    return dataset


def _step_with_lengths(dataset: Any, sequence_length: dict[str, int]) -> Any:
    return dataset


def task_fingerprint(**changes: Any) -> str:
    info = {"name": "toy", "identity": "set", "version": None, "templates": (Template("t", "{q}", "{a}"),)}
    info |= {k: changes.pop(k) for k in list(changes) if k in info}
    arguments = {
        "prompt_format": "plain",
        "variants": 1,
        "prepare_seed": 0,
        "feature_lengths": {"inputs": 8, "targets": 8},
        "data_files": [("a.jsonl", "00")],
    }
    steps = changes.pop("preprocessors", [_plain_step])
    tokenizer = types.SimpleNamespace(digest=changes.pop("tokenizer", "tok"))
    features = {"targets": FakeFeature(add_eos=changes.pop("add_eos", True))}
    task = types.SimpleNamespace(source={"rows": 1}, preprocessors=steps, output_features=features)
    return digest(
        describe_task(
            task,
            info=types.SimpleNamespace(**info),
            tokenizer=tokenizer,
            renderer=_plain_step,
            **(arguments | changes),  # type: ignore[arg-type]
        )
    )


@pytest.mark.parametrize(
    "change",
    [
        {"templates": (Template("t", "{q}?", "{a}"),)},
        {"tokenizer": "other"},
        {"prompt_format": "chat"},
        {"variants": 2},
        {"prepare_seed": 1},
        {"data_files": [("a.jsonl", "01")]},
        {"identity": "other"},
        {"version": "2"},
        {"preprocessors": []},
        {"add_eos": False},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_input_of_a_task_counts(change: dict[str, Any]) -> None:
    assert task_fingerprint(**change) != task_fingerprint()


def test_lengths_count_only_where_a_preprocessor_reads_them() -> None:
    longer = {"inputs": 9, "targets": 9}
    assert task_fingerprint(feature_lengths=longer) == task_fingerprint()
    reading = {"preprocessors": [_step_with_lengths]}
    assert task_fingerprint(feature_lengths=longer, **reading) != task_fingerprint(**reading)
