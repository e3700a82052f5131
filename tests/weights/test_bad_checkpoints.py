"""Folders that are no good, through what every command calls: each is one clear line that names file and tensor."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from itune.errors import UserError
from itune.inference.session import load
from tests.conftest import ROOT
from tests.world import write_model

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
DOWN = "model.layers.1.mlp.down_proj.weight"
EMBED = "model.embed_tokens.weight"


def tensors(edit: Callable[[dict], object]) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        edit(found)
        save_file(found, folder / WEIGHTS)

    return harm


def config(**changes) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        fields = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))

    return harm


def write(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(data) and None


def cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) * 2 // 3])


def long_header(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 40) + data[8:])


def instead_of_weights(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / WEIGHTS).rename(folder / name) and None


def sharded(edit: Callable[[dict], object], keep: Callable[[str], bool] = lambda name: True) -> Callable[[Path], None]:
    """Two files and an index, whose weight_map `edit` spoils; of the files' tensors those that `keep` names."""

    def harm(folder: Path) -> None:
        found = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        names, weight_map = sorted(found), {}
        for n in range(2):
            file = f"model-0000{n + 1}-of-00002.safetensors"
            mine = {name: found[name] for name in names[n::2]}
            weight_map |= dict.fromkeys(mine, file)
            save_file({name: array for name, array in mine.items() if keep(name)}, folder / file)
        edit(weight_map)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    return harm


def twice(folder: Path) -> None:
    save_file({DOWN: load_file(folder / WEIGHTS)[DOWN]}, folder / "more.safetensors")


def not_finite(found: dict) -> None:
    found[DOWN] = found[DOWN].copy()
    found[DOWN][3, 5] = np.nan


def only_adapter(folder: Path) -> None:
    (folder / CONFIG).unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def more_ids(folder: Path) -> None:
    fields = json.loads((folder / TOKENIZER).read_text())
    top = max(fields["model"]["vocab"].values())
    fields["model"]["vocab"] |= {f"extra {n}": top + 1 + n for n in range(900)}
    (folder / TOKENIZER).write_text(json.dumps(fields))


SECOND = "model-00002-of-00002.safetensors"
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (tensors(lambda t: t.pop(DOWN)), rf"tensor '{DOWN}' is missing\. Did you mean"),
    "extra tensor": (
        tensors(lambda t: t.update(more=np.zeros(3, "f4"))),
        "tensor 'more' has no place in a llama",
    ),
    "wrong shape": (tensors(lambda t: t.update({DOWN: t[DOWN][:, 1:].copy()})), rf"{DOWN} has shape .* asks for"),
    "transposed": (tensors(lambda t: t.update({DOWN: t[DOWN].T.copy()})), rf"{DOWN} has shape .* asks for"),
    "not finite": (tensors(not_finite), rf"{WEIGHTS}: {DOWN} holds numbers that are not finite"),
    "whole numbers": (tensors(lambda t: t.update({DOWN: t[DOWN].astype(np.int8)})), rf"{DOWN} is of type I8"),
    "float8": (tensors(lambda t: t.update({DOWN: t[DOWN].astype(ml_dtypes.float8_e4m3fn)})), "is of type F8_E4M3"),
    "truncated": (cut, f"{WEIGHTS}: not a readable safetensors file"),
    "a header beyond the file": (long_header, f"{WEIGHTS}: not a readable safetensors file"),
    "a header that is no JSON": (write(WEIGHTS, struct.pack("<Q", 4) + b"oops"), "not a readable safetensors file"),
    "an empty file": (write(WEIGHTS, b""), rf"{WEIGHTS}: not a readable safetensors file \(it is empty\)"),
    "a git-lfs pointer": (
        write(WEIGHTS, b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"),
        rf"{WEIGHTS}: is a git-lfs pointer and not the weights; fetch them with: git -C .* lfs pull",
    ),
    "a tensor in two files": (twice, rf"tensor '{DOWN}' is in model.safetensors too"),
    "index: no such shard": (
        sharded(lambda m: m.update({DOWN: "model-00003-of-00003.safetensors"})),
        r"model-00003-of-00003.safetensors: is missing, and model.safetensors.index.json lists it",
    ),
    "index: another shard": (
        sharded(lambda m: m.update({DOWN: SECOND if m[DOWN] != SECOND else SECOND.replace("2-", "1-", 1)})),
        rf"tensor '{DOWN}' is missing; model.safetensors.index.json says|says '{DOWN}' is in .*; it is in",
    ),
    "index: a tensor that its shard lacks": (
        sharded(lambda m: None, keep=lambda name: name != DOWN),
        rf"safetensors: tensor '{DOWN}' is missing; model.safetensors.index.json says it is here",
    ),
    "index: a path": (sharded(lambda m: m.update({DOWN: "../x.safetensors"})), "not an index of safetensors files"),
    "index: no JSON": (write("model.safetensors.index.json", b"{"), "index.json: not an index of safetensors files"),
    "config: more layers": (config(num_hidden_layers=3), r"'model.layers.2.\S+' is missing"),
    "config: fewer layers": (config(num_hidden_layers=1), r"'model.layers.1.\S+' has no place in a llama model"),
    "config: other heads": (config(num_key_value_heads=4), r"k_proj.weight has shape .* config.json asks for"),
    "config: other vocabulary": (config(vocab_size=5000), rf"{EMBED} has shape .* config.json asks for"),
    "config: untied, and no head": (config(tie_word_embeddings=False), "'lm_head.weight' is missing"),
    "config: tied, and another head": (
        tensors(lambda t: t.update({"lm_head.weight": t[EMBED] + 1})),
        r"lm_head.weight differs from model.embed_tokens.weight, and config.json says tie_word_embeddings",
    ),
    "config: quantised": (config(quantization_config={"quant_method": "gptq"}), "quantization_config="),
    "config: unknown family": (config(model_type="mixtral"), "model_type 'mixtral' is not supported"),
    "config: rotary scaling": (config(rope_scaling={"type": "yarn", "factor": 4.0}), "rope type 'yarn'"),
    "config: no JSON": (write(CONFIG, b"{"), f"{CONFIG}: not JSON"),
    "config: a field is missing": (config(hidden_size=...), "hidden_size is missing"),
    "config: none": (lambda folder: (folder / CONFIG).unlink(), "no config.json here"),
    "pickle": (instead_of_weights("pytorch_model.bin"), "pytorch_model.bin is a pickle: .* Convert it to safetensors"),
    "TensorFlow": (instead_of_weights("tf_model.h5"), r"tf_model.h5 is TensorFlow's; itune reads \*.safetensors"),
    "an adapter": (only_adapter, "an adapter, no model; name its base as the source"),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), r"no \*.safetensors file here"),
    "no tokenizer": (lambda folder: (folder / TOKENIZER).unlink(), "no tokenizer"),
    "tokenizer: no JSON": (write(TOKENIZER, b"{}"), f"{TOKENIZER}: not a tokenizer that"),
    "tokenizer: another model's": (more_ids, r"the tokenizer has \d+ ids, the model"),
    "tokenizer: no EOS": (
        lambda folder: [path.unlink() for path in (*folder.glob("tokenizer_config*"), *folder.glob("special*"))],
        "no eos_token",
    ),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("sound") / "model")


@pytest.fixture
def folder(sound, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in sound.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


@pytest.mark.parametrize("name", BAD)
def test_one_clear_line(folder, name):
    harm, message = BAD[name]
    harm(folder)
    with pytest.raises(UserError, match=message) as caught:
        load(str(folder))
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_the_sound_one_loads(folder):
    assert load(str(folder)).spec.config.num_layers == 2


def test_a_command_ends_with_that_line(folder):
    cut(folder)
    command = [sys.executable, "-m", "itune.generate", f"--model={folder}", "--prompt=hi"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"{WEIGHTS}: not a readable safetensors file" in done.stderr.splitlines()[-1]
