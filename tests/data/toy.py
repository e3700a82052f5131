"""Tiny tasks with a byte tokenizer, prepared in a test's own folder."""

from __future__ import annotations

import dataclasses
import importlib
import io
import json
import stat
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from itune.data.config import DataConfig
from itune.data.manifest import DigestCache, Manifest, PreparedSplit, Request
from itune.data.records import (
    Record,
    decode_record,
    read_records,
)
from itune.data.tokenizer import Tokenizer
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

    from itune.data import lazy, registry

    monkeypatch.setattr(lazy, "_pending", {})  # another test may have imported tasks/
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
        evaluation = {
            n: fields.pop(n) for n in ("held_in", "held_out", "held_out_clusters", "held_out_sources") if n in fields
        }
        others = {n: fields.pop(n) for n in ("workers", "eval_split", "runner", "beam_options") if n in fields}
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
