"""The digest by which a run knows the weights that it was tuned from."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from itune.weights.shards import INDEX, weights_digest

RNG = np.random.default_rng(0)
TENSORS = {
    "model.embed_tokens.weight": RNG.standard_normal((7, 16)).astype(ml_dtypes.bfloat16).astype(np.float32),
    "model.narrow.weight": np.arange(12, dtype=np.float32).reshape(4, 3),
    "model.short.weight": np.arange(3, dtype=np.float32),
    "model.norm.weight": RNG.standard_normal(40).astype(ml_dtypes.bfloat16).astype(np.float32),
}


@pytest.fixture
def write(tmp_path):
    """write("name", tensors, ...) -> a folder with a file for each of the dicts."""

    def make(name, *files):
        folder = tmp_path / name
        folder.mkdir()
        names = [f"model-{n}.safetensors" for n in range(len(files))]
        for file, tensors in zip(names, files, strict=True):
            save_file(tensors, folder / file)
        where = {t: file for file, tensors in zip(names, files, strict=True) for t in tensors}
        (folder / INDEX).write_text(json.dumps({"weight_map": where}))
        return folder

    return make


def test_files_and_a_wider_type_make_no_difference(write):
    first = {name: TENSORS[name] for name in list(TENSORS)[:1]}
    second = {name: array for name, array in TENSORS.items() if name not in first}
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in TENSORS.items()}
    found = {weights_digest(write("one", TENSORS)), weights_digest(write("two", first, second))}
    assert found == {weights_digest(write("bf16", narrow))}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("model.embed_tokens.weight", (0, 0)),
        ("model.embed_tokens.weight", (3, 7)),
        ("model.embed_tokens.weight", (6, 1)),
        ("model.norm.weight", (23,)),
        ("model.narrow.weight", (3, 2)),
        ("model.short.weight", (2,)),
    ],
)
def test_another_number_makes_another(write, name, index):
    other = {n: array.copy() for n, array in TENSORS.items()}
    other[name][index] += 1
    assert weights_digest(write("one", TENSORS)) != weights_digest(write("other", other))


def test_a_tensor_more_makes_another(write):
    more = {**TENSORS, "lm_head.weight": TENSORS["model.embed_tokens.weight"]}
    assert weights_digest(write("one", TENSORS)) != weights_digest(write("more", more))
