"""Loading straight into sharded arrays: the same numbers on every mesh, and never more than a slice beside them."""

from __future__ import annotations

import json
import subprocess
import sys
import zlib
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from itune.models.families import read_config
from itune.models.spec import model_spec
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import make_mesh, param_sharding
from itune.weights import load as load_module
from itune.weights.arrays import make_array
from itune.weights.load import load_base
from tests.parity import our_families
from tests.world import write_model

MESHES = ({"data": 8}, {"data": 1, "fsdp": 8}, {"data": 2, "fsdp": 2, "tensor": 2})
LARGE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 32_000,
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "tie_word_embeddings": True,
}


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_every_mesh_holds_what_one_device_does(tmp_path, sizes):
    folder = write_model(tmp_path / "model")
    spec, mesh = model_spec(read_config(folder)), make_mesh(MeshConfig(**sizes))
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], RULES)  # noqa: E731
    whole, spread = load_base(folder, spec), load_base(folder, spec, place)
    for path, array in whole.items():
        assert spread[path].sharding.is_equivalent_to(place(path), array.ndim)
        np.testing.assert_array_equal(np.asarray(spread[path]), np.asarray(array), err_msg=path)


def test_each_slice_is_read_once():
    """Copies on several devices are one reading; slices of one array are each their own."""
    asked = []

    def read(index):
        asked.append(index)
        return np.arange(24.0).reshape(4, 6)[index]

    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    array = make_array((4, 6), param_sharding(mesh, ("embed", None), (4, 6), RULES), read)
    assert len(asked) == 4 and all(part[0].stop - part[0].start == 1 for part in asked)
    np.testing.assert_array_equal(np.asarray(array), np.arange(24.0).reshape(4, 6))


def test_no_tensor_is_read_whole_where_it_is_spread(tmp_path, monkeypatch):
    folder = write_model(tmp_path / "model")
    spec, mesh = model_spec(read_config(folder)), make_mesh(MeshConfig(data=1, fsdp=8))
    sizes, read = [], load_module.Tensors.read
    monkeypatch.setattr(
        load_module.Tensors, "read", lambda *a, **k: (lambda out: sizes.append((a[1], out.size)) or out)(read(*a, **k))
    )
    load_base(folder, spec, lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], RULES))
    shapes = our_families.shapes(spec)
    read_of = dict(sizes)
    large = [name for name, shape in shapes.items() if len(shape) == 2]
    assert large and all(read_of[name] * 8 == np.prod(shapes[name]) for name in large)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A Llama of 1.04 billion parameters in bfloat16, in four shards."""
    folder = tmp_path_factory.mktemp("large")
    (folder / "config.json").write_text(json.dumps(LARGE))
    shapes = our_families.shapes(model_spec(read_config(folder)))
    assert sum(int(np.prod(shape)) for shape in shapes.values()) > 1e9
    numbers = np.random.default_rng(0).standard_normal(1 << 20).astype(ml_dtypes.bfloat16)
    names, weight_map = list(shapes), {}
    for shard in range(4):
        file = f"model-{shard + 1:05}-of-00004.safetensors"
        mine = names[shard::4]
        save_file({n: np.resize(np.roll(numbers, zlib.crc32(n.encode())), shapes[n]) for n in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    yield folder
    for path in folder.iterdir():
        path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [("1", "8", "1"), ("1", "4", "2")], ids="-".join)
def test_a_model_of_a_billion_parameters_takes_little_more_than_itself(large, sizes):
    command = [sys.executable, str(Path(__file__).with_name("load_worker.py")), str(large), *sizes]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["differ"] == []
    assert found["model"] > 2e9
    ratio = (found["peak"] - found["baseline"]) / found["model"]
    print(f"peak above the baseline: {ratio:.3f} of the model's bytes")
    assert ratio <= 1.3, found


def test_the_test_has_eight_devices():
    assert len(jax.devices()) == 8
