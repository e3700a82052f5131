"""Several adapters in one file: each is what it was in its folder; what is no such file is told."""

from __future__ import annotations

import json

import numpy as np
import pytest

from itune import cli, convert
from itune.errors import UserError
from itune.models.config import LoRAConfig
from itune.models.families import read_config
from itune.models.spec import model_spec
from itune.weights.adapter_file import CONFIG, list_adapters, pack
from itune.weights.peft import read_adapter, write_adapter
from tests.parity import our_families
from tests.weights.test_export import numbers

KINDS = {
    "terse": LoRAConfig(rank=2, alpha=4.0, layers=("q_proj", "v_proj")),
    "clinic-2": LoRAConfig(rank=3, alpha=6.0, scaling="rslora", layers=("up_proj",), at=(1,), train=(".*norm/scale",)),
}


@pytest.fixture
def world(tmp_path):
    """(the base's config, {name: folder of peft's})."""
    config = read_config(our_families.write_folder(tmp_path / "in", "llama"))
    folders = {}
    for n, (name, lora) in enumerate(KINDS.items()):
        spec = model_spec(config, lora)
        folders[name] = tmp_path / f"folder of {name}"
        folders[name].mkdir()
        write_adapter(spec, numbers(spec, seed=n), folders[name], base="acme/base", dtype="float32")
    return config, folders


@pytest.fixture
def packed(world, tmp_path):
    return pack([f"{name}={folder}" for name, folder in world[1].items()], tmp_path / "all.safetensors")


def test_each_is_what_it_was(world, packed, tmp_path):
    config, folders = world
    assert list_adapters(packed).keys() == KINDS.keys()
    again = pack([f"one={packed}:clinic-2"], tmp_path / "again.safetensors")
    for name, source in {**{n: f"{packed}:{n}" for n in KINDS}, "clinic-2 again": f"{again}:one"}.items():
        lora, found = read_adapter(source, config)
        expected_lora, expected = read_adapter(folders[name.removesuffix(" again")], config)
        assert lora == expected_lora and found.keys() == expected.keys()
        for path, array in expected.items():
            np.testing.assert_array_equal(found[path], array, err_msg=f"{name} {path}")


def test_the_command_packs_and_says_so(world, tmp_path, capsys):
    pairs = [f"{name}={folder}" for name, folder in world[1].items()]
    assert cli.run(convert.main, ["--pack", *pairs, f"--to={tmp_path / 'x.safetensors'}"]) == 0
    assert "Written: " in capsys.readouterr().err
    assert cli.run(convert.main, ["--pack", *pairs, f"--to={tmp_path / 'x.safetensors'}"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert cli.run(convert.main, ["--pack", *pairs, "--model=a", "--to=b"]) == 2
    assert "one of --model (to convert) and --pack" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"all.safetensors: holds adapters by name: terse, clinic-2; name one as all.safetensors:terse"),
        (":ters", r"has no adapter 'ters': terse, clinic-2; .*Did you mean 'terse'\?"),
    ],
)
def test_a_name_is_needed(world, packed, name, message):
    with pytest.raises(UserError, match=message):
        read_adapter(f"{packed}{name}", world[0])


def test_another_safetensors_file_is_no_file_of_adapters(world, tmp_path):
    with pytest.raises(UserError, match="not a file of adapters that itune.convert --pack wrote"):
        read_adapter(f"{next((tmp_path / 'in').glob('*.safetensors'))}:terse", world[0])
    with pytest.raises(UserError, match="not a file of adapters"):
        read_adapter(f"{tmp_path / 'nothing.safetensors'}:terse", world[0])


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (["terse"], "--pack terse: NAME=FOLDER is needed"),
        (["a/b=FOLDER"], "--pack a/b=.*: NAME=FOLDER is needed"),
        (["a=FOLDER", "a=FOLDER"], "'a' comes twice"),
        (["a=FOLDER", "b=OTHER"], "adapters of different bases: a of acme/base, b of acme/other"),
        (["a=NOTHING"], "no adapter_config.json here"),
    ],
)
def test_what_cannot_be_packed_is_told_and_nothing_is_left(world, tmp_path, pairs, message):
    folder, other = world[1].values()
    fields = json.loads((other / CONFIG).read_text()) | {"base_model_name_or_path": "acme/other"}
    (other / CONFIG).write_text(json.dumps(fields))
    for word, path in {"FOLDER": folder, "OTHER": other, "NOTHING": tmp_path / "nothing"}.items():
        pairs = [pair.replace(word, str(path)) if "=" in pair else pair for pair in pairs]
    with pytest.raises(UserError, match=message):
        pack(pairs, tmp_path / "x.safetensors")
    assert not list(tmp_path.glob("*.safetensors*")) and not list(tmp_path.glob(".x*"))
