"""Out, and in again: the same bits, for every family; adapters in peft's layout; a folder whole or not at all."""

from __future__ import annotations

import json
import re
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file

from itune.errors import UserError
from itune.inference.convert import convert
from itune.models.config import FullConfig, LoRAConfig
from itune.models.families import read_config
from itune.models.spec import init_params, model_spec
from itune.weights import export
from itune.weights.card import strictest
from itune.weights.load import load_base
from itune.weights.peft import read_adapter, write_adapter
from tests.parity import families, our_families
from tests.world import write_model


def quiet(line: str) -> None:
    pass


@pytest.mark.parametrize("name", [*families.CONFIGS, *families.T5S])
def test_in_and_out_is_the_same_bits(name, tmp_path):
    folder, out = our_families.write_folder(tmp_path / "in", name), tmp_path / "out"
    spec = model_spec(read_config(folder), FullConfig())
    trained = {path: np.asarray(array) for path, array in load_base(folder, spec).items()}
    out.mkdir()
    export.write_model(folder, spec, trained, out)
    theirs, ours = load_file(folder / "model.safetensors"), load_file(out / "model.safetensors")
    assert theirs.keys() == ours.keys()
    for tensor, array in theirs.items():
        assert array.tobytes() == ours[tensor].tobytes(), tensor
    again = load_base(out, spec)
    assert all(np.array_equal(np.asarray(again[path]), trained[path]) for path in trained)
    assert read_config(out) == read_config(folder)


def test_what_was_not_trained_is_the_bases_own(tmp_path):
    folder = our_families.write_folder(tmp_path / "in", "qwen2")
    spec = model_spec(read_config(folder), FullConfig(patterns=(".*/b",)))
    trained = {p: np.asarray(a) + 1 for p, a in load_base(folder, spec).items() if p in spec.trainable}
    (tmp_path / "out").mkdir()
    export.write_model(folder, spec, trained, tmp_path / "out")
    theirs, ours = (load_file(tmp_path / f / "model.safetensors") for f in ("in", "out"))
    for name in theirs:
        expected = theirs[name] + 1 if name.endswith(".bias") else theirs[name]
        np.testing.assert_array_equal(ours[name], expected, err_msg=name)


def test_bfloat16_is_rounded_to_nearest_and_shards_are_no_larger_than_asked(tmp_path):
    folder, out = our_families.write_folder(tmp_path / "in", "llama"), tmp_path / "out"
    out.mkdir()
    export.write_model(folder, model_spec(read_config(folder)), {}, out, dtype="bfloat16", max_bytes=20_000)
    files = sorted(out.glob("*.safetensors"))
    assert len(files) > 2 and all(re.fullmatch(r"model-\d{5}-of-\d{5}\.safetensors", f.name) for f in files)
    index = json.loads((out / "model.safetensors.index.json").read_text())
    theirs = load_file(folder / "model.safetensors")
    assert index["weight_map"].keys() == theirs.keys()
    for name, file in index["weight_map"].items():
        assert load_file(out / file)[name].tobytes() == theirs[name].astype(ml_dtypes.bfloat16).tobytes()
    assert all(sum(a.nbytes for a in load_file(file).values()) <= 20_000 for file in files)
    assert json.loads((out / "config.json").read_text())["torch_dtype"] == "bfloat16"
    load_base(out, model_spec(read_config(out)))


ADAPTERS = {
    "plain": LoRAConfig(rank=3, alpha=5.0),
    "rslora": LoRAConfig(rank=4, alpha=6.0, scaling="rslora", layers=("layers/attention/.*",)),
    "dora": LoRAConfig(rank=2, alpha=2.0, dora=True, layers=("q_proj", "down_proj")),
    "some layers": LoRAConfig(rank=2, alpha=2.0, layers=("v_proj",), at=(0, 2)),
    "and in full": LoRAConfig(
        rank=2, alpha=2.0, layers=("v_proj",), train=("head", "final_norm/scale", "layers/mlp_norm/scale")
    ),
}


def numbers(spec, seed=3):
    """What training might have left: zero where `at` leaves a layer out."""
    rng = np.random.default_rng(seed)
    found = {p: rng.standard_normal(spec.shapes[p]).astype(np.float32) for p in spec.trainable}
    if spec.tuning.at:
        for path in spec.adapter_paths():
            found[path][[n for n in range(spec.shapes[path][0]) if n not in spec.tuning.at]] = 0
    return found


@pytest.mark.parametrize("name", ADAPTERS)
def test_an_adapter_out_and_in_is_the_same(name, tmp_path):
    folder = our_families.write_folder(tmp_path / "in", "llama")
    spec = model_spec(read_config(folder), ADAPTERS[name])
    trained = numbers(spec)
    (tmp_path / "out").mkdir()
    write_adapter(spec, trained, tmp_path / "out", base="acme/base", dtype="float32")
    lora, found = read_adapter(tmp_path / "out", spec.config)
    assert (lora.rank, lora.scale, lora.dora, lora.at) == (
        spec.tuning.rank,
        spec.tuning.scale,
        spec.tuning.dora,
        spec.tuning.at,
    )
    assert found.keys() == trained.keys()
    for path, array in trained.items():
        np.testing.assert_array_equal(found[path], array, err_msg=path)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("peft_type", "IA3", 'peft_type="IA3" is not supported'),
        ("bias", "all", 'bias="all" is not supported'),
        ("init_lora_weights", "pissa", 'init_lora_weights="pissa" is not supported'),
        ("alpha_pattern", {"q_proj": 3}, "itune does not know alpha_pattern"),
        ("fan_in_fan_out", True, "itune does not know fan_in_fan_out"),
        ("r", "four", "r and lora_alpha must be numbers"),
        ("r", 5, "has shape"),
    ],
)
def test_an_adapter_of_another_kind_is_refused_by_name(tmp_path, field, value, message):
    folder = our_families.write_folder(tmp_path / "in", "llama")
    spec = model_spec(read_config(folder), ADAPTERS["plain"])
    out = tmp_path / "out"
    out.mkdir()
    write_adapter(spec, numbers(spec), out, base="", dtype="float32")
    fields = json.loads((out / "adapter_config.json").read_text()) | {field: value}
    (out / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        read_adapter(out, spec.config)
    assert str(out) in str(caught.value)


def test_an_adapter_of_another_model_is_refused(tmp_path):
    folder = our_families.write_folder(tmp_path / "in", "llama")
    spec = model_spec(read_config(folder), ADAPTERS["plain"])
    (tmp_path / "out").mkdir()
    write_adapter(spec, numbers(spec), tmp_path / "out", base="", dtype="float32")
    other = read_config(our_families.write_folder(tmp_path / "other", "gemma2"))
    with pytest.raises(UserError, match="has shape"):
        read_adapter(tmp_path / "out", other)


def test_a_folder_of_several_adapters_lists_them(tmp_path):
    folder = our_families.write_folder(tmp_path / "in", "llama")
    spec = model_spec(read_config(folder), ADAPTERS["plain"])
    for name in ("terse", "kind"):
        (tmp_path / "all" / name).mkdir(parents=True)
        write_adapter(spec, numbers(spec), tmp_path / "all" / name, base="", dtype="float32")
    with pytest.raises(UserError, match="it holds adapters by name: kind, terse; name one of these folders"):
        read_adapter(tmp_path / "all", spec.config)
    assert read_adapter(tmp_path / "all" / "kind", spec.config)[0].rank == 3


def test_weights_are_converted_as_they_are(tmp_path):
    folder = write_model(tmp_path / "model")
    convert(str(folder), tmp_path / "out", dtype="float32", echo=quiet)
    theirs, ours = (load_file(tmp_path / f / "model.safetensors") for f in ("model", "out"))
    assert all(theirs[name].tobytes() == ours[name].tobytes() for name in theirs | ours)
    assert (tmp_path / "out" / "tokenizer.json").read_bytes() == (folder / "tokenizer.json").read_bytes()
    assert "not tuned" in (tmp_path / "out" / "README.md").read_text()
    assert not list(tmp_path.glob(".*partial"))


def test_a_target_that_is_there_is_kept_unless_told_otherwise(tmp_path):
    folder, out = write_model(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="is there already and not empty; another folder, or --overwrite"):
        convert(str(folder), out, echo=quiet)
    with pytest.raises(UserError, match="was not written by itune.convert, and is not overwritten"):
        convert(str(folder), out, overwrite=True, echo=quiet)
    assert (out / "mine.txt").read_text() == "precious"
    made = tmp_path / "made"
    convert(str(folder), made, echo=quiet)
    (made / "more.txt").write_text("goes with it")
    convert(str(folder), made, overwrite=True, echo=quiet)
    assert not (made / "more.txt").exists() and (made / "model.safetensors").is_file()
    assert not list(tmp_path.glob(".*"))


def test_what_is_converted_is_never_the_target(tmp_path, monkeypatch):
    folder, made = write_model(tmp_path / "model"), tmp_path / "all" / "made"
    convert(str(folder), made, dtype="float32", echo=quiet)
    (tmp_path / "all" / "README.md").write_text("written by itune.")
    for target in (made, tmp_path / "all"):
        with pytest.raises(UserError, match="which must stay; name another folder"):
            convert(str(made), target, overwrite=True, echo=quiet)
    monkeypatch.chdir(made)
    with pytest.raises(UserError, match="which must stay"):
        convert(str(folder), Path(), overwrite=True, echo=quiet)
    assert (made / "model.safetensors").is_file()


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        ("llama3", LoRAConfig(rank=2, train=("embed",)), "trained the embedding, which other parts"),
        ("flan_t5", LoRAConfig(rank=2, train=("embed",)), "trained the embedding, which other parts"),
        ("qwen2", LoRAConfig(rank=2, train=(".*/q_proj/b",)), "of a layer that has an adapter too"),
    ],
)
def test_what_peft_would_compute_otherwise_is_not_written(name, lora, message, tmp_path):
    spec = model_spec(read_config(our_families.write_folder(tmp_path / "in", name)), lora)
    with pytest.raises(UserError, match=message):
        write_adapter(spec, numbers(spec), tmp_path, base="", dtype="float32")


def test_a_conversion_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    folder, out = write_model(tmp_path / "model"), tmp_path / "out"
    convert(str(folder), out, echo=quiet)
    before = {path.name: path.read_bytes() for path in out.iterdir()}

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("itune.weights.safetensors_file.os.fsync", full)
    with pytest.raises(UserError, match="No space left on device"):
        convert(str(folder), out, overwrite=True, echo=quiet)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not list(tmp_path.glob(".*partial"))


@pytest.mark.parametrize(
    ("base", "tasks", "expected"),
    [
        ("Apache-2.0", ["Apache-2.0", "Apache-2.0"], "Apache-2.0"),
        ("Apache-2.0", ["CC-BY-NC-4.0", "MIT"], "CC-BY-NC-4.0"),
        ("", ["MIT"], "MIT; unknown for a part of it"),
        ("unknown", [], "unknown for a part of it"),
        ("Apache-2.0", ["Community licence"], "Apache-2.0; Community licence"),
    ],
)
def test_the_strictest_licence_stands_first(base, tasks, expected):
    assert strictest(base, {"train": [{"licence": licence} for licence in tasks]}) == expected


def test_fresh_parameters_are_not_exported_by_accident(tmp_path):
    """Adapters that were never trained change nothing."""
    folder = our_families.write_folder(tmp_path / "in", "llama")
    spec = model_spec(read_config(folder), LoRAConfig(rank=2))
    fresh = {path: np.asarray(a) for path, a in init_params(spec, 0).items()}
    (tmp_path / "out").mkdir()
    export.write_model(folder, spec, fresh, tmp_path / "out")
    theirs, ours = (load_file(tmp_path / f / "model.safetensors") for f in ("in", "out"))
    assert all(np.array_equal(theirs[name], ours[name]) for name in theirs)
