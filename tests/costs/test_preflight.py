"""`python -m itune.preflight`: what a run needs, on devices at hand and on those that are not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import jax
import pytest

from itune.config.run import RunConfig
from itune.costs import estimate as estimates
from itune.costs import generation as generations
from itune.costs.preflight import EXIT_DOES_NOT_FIT, preflight
from itune.data.config import DataConfig
from itune.errors import UserError
from itune.inference.caches import cache_length
from itune.models.config import EncoderDecoderConfig, FullConfig
from itune.models.families import read_config
from itune.parallel.config import MeshConfig
from itune.parallel.topology import topology
from itune.training.abstract import Shapes
from itune.training.config import TrainConfig
from tests.world import write_model

ROWS, LENGTH, SUPERVISED = 8, 128, 64
FETCHED = Path(__file__).parents[2] / ".libtpu" / "libtpu" / "libtpu.so"
T5 = EncoderDecoderConfig(
    family="t5",
    vocab_size=64,
    width=32,
    num_heads=2,
    head_dim=16,
    mlp_width=64,
    encoder_layers=2,
    decoder_layers=2,
    norm_eps=1e-6,
    tied_embeddings=True,
    scaled_outputs=False,
    activation="relu",
    gated=False,
    relative_buckets=8,
    relative_max_distance=32,
)
needs_libtpu = pytest.mark.skipif(
    not (FETCHED.is_file() or os.environ.get("TPU_LIBRARY_PATH")), reason="needs `make libtpu`"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("preflight") / "model")


def config(**more) -> RunConfig:
    data = DataConfig(
        mixture="none",
        feature_lengths={"inputs": 96, "targets": 32},
        row_length=LENGTH,
        supervised_per_row=SUPERVISED,
    )
    train = TrainConfig(steps=10, batch_size=ROWS)
    return RunConfig(model_dir="none", data=data, train=train, **({"tuning": FullConfig()} | more))


def said(capsys, asked: RunConfig, model: Path, topologies=(), **more) -> tuple[int, dict]:
    code = preflight(asked, topologies, model_config=str(model / "config.json"), output_format="json", **more)
    return code, json.loads(capsys.readouterr().out)


def test_bytes_of_what_is_held_are_those_of_the_arrays(model, capsys):
    code, found = said(capsys, config(mesh=MeshConfig(data=1, fsdp=8)), model)
    (one,) = found["topologies"]
    count = sum(leaf["size"] for leaf in _tensors(model))
    assert code == 0 and one["fits"] and one["devices"] == 8 and one["mesh"] == {"data": 1, "fsdp": 8, "tensor": 1}
    # All is split in eight; Adam has two moments, and counts.
    held = one["memory"]["parameters"]
    assert held == count * 4 / 8
    assert 2 * held <= one["memory"]["optimizer"] < 2 * held + 64
    assert one["used"] == sum(one["memory"].values()) <= one["limit"]
    assert one["load"]["tokens"] == ROWS * LENGTH and one["load"]["supervised"] == ROWS * SUPERVISED
    assert one["expected"] is None, "nothing is known of this machine's rate"
    assert {c["kind"] for c in one["sent"]} >= {"all-gather"} and {c["axes"] for c in one["sent"]} == {"fsdp"}


def _tensors(model: Path) -> list[dict]:
    from safetensors import safe_open

    with safe_open(model / "model.safetensors", "np") as file:
        return [{"name": name, "size": file.get_tensor(name).size} for name in file.keys()]  # noqa: SIM118


def test_what_does_not_fit_ends_with_4(model, capsys, monkeypatch):
    monkeypatch.setattr(estimates, "_limit_here", lambda: 2**16)
    assert preflight(config(), [], model_config=str(model)) == EXIT_DOES_NOT_FIT == 4
    assert "DOES NOT FIT" in capsys.readouterr().out


def test_the_search_takes_the_cheapest_that_fits(model, capsys, monkeypatch):
    whole = said(capsys, config(mesh=MeshConfig(data=1, fsdp=8)), model)[1]["topologies"][0]
    code, found = said(capsys, config(), model, search=3)
    (one,) = found["topologies"]
    assert code == 0 and one["remat"] == "none" and one["accumulation"] == 1
    # Less room than it takes: the best of the three is still told, and that it does not fit.
    monkeypatch.setattr(estimates, "_limit_here", lambda: whole["used"] // 100)
    code, found = said(capsys, config(), model, search=2)
    assert code == 4 and not found["topologies"][0]["fits"]


def test_a_picture_is_drawn_and_money_is_counted(model, tmp_path, capsys):
    picture = tmp_path / "memory.svg"
    preflight(config(), [], model_config=str(model), picture=str(picture))
    text = picture.read_text()
    assert text.startswith("<svg") and "temporaries" in text and f"{len(jax.devices())} x cpu" in text


def test_a_bad_mesh_is_told_by_its_binding(model):
    with pytest.raises(UserError, match="MeshConfig.*does not cover 8 devices"):
        preflight(config(mesh=MeshConfig(data=3)), [], model_config=str(model))
    with pytest.raises(
        UserError,
        match="MeshConfig.tensor=8 must divide the model's 4 query heads .2 key-value heads.; MeshConfig.rules=",
    ):
        preflight(config(mesh=MeshConfig(data=1, tensor=8)), [], model_config=str(model))
    for bad in (model / "missing" / "config.json", model / "tokenizer.json"):
        with pytest.raises(UserError, match="--model_config=.*must be a model's config.json, or the folder"):
            preflight(config(), [], model_config=str(bad))
    with pytest.raises(UserError, match="--topology=v5f:2x2"):
        preflight(config(), ["v5f:2x2"], model_config="not looked at yet")


@pytest.mark.parametrize("name", ["v5e", "v5f:2x2", "v5e:2", "v5e:2x2*", ""])
def test_a_topology_that_is_none(name):
    with pytest.raises(UserError, match="must be CHIP:AxB"):
        topology(name)


def test_the_compilers_words_for_too_much():
    words = "Ran out of memory in memory space hbm. Used 20.51G of 15.75G hbm. Exceeded hbm capacity by 4.76G."
    assert estimates._sizes(words) == (int(20.51 * 2**30), int(15.75 * 2**30))
    words = "the total memory required for HLO temporaries (26.99G) exceeds available HBM (15.75G)."
    assert estimates._sizes(words) == (int(26.99 * 2**30), int(15.75 * 2**30))
    assert estimates._sizes("something else") is None


def test_generation_is_compiled_with_what_it_holds(model, capsys, monkeypatch, tmp_path):
    """Its parameters and its cache are those of the real slots, and the exit status asks them, too."""
    asked = config(mesh=MeshConfig(data=1, fsdp=8))
    code, found = said(capsys, asked, model, generate="8x100x60")
    step, text = found["topologies"][0], found["topologies"][0]["generation"]
    assert code == 0 and text["fits"] and set(text["temporaries"]) == {"prefill", "decode"}
    assert text["memory"]["parameters"] == step["memory"]["parameters"]
    # A slot a device: keys and values, each of layers x heads x positions x width; 160 positions take 256.
    c = read_config(model)
    assert text["memory"]["cache"] == 2 * c.num_layers * c.num_kv_heads * 256 * c.head_dim * 4
    assert text["used"] == sum(text["memory"].values()) <= text["limit"]
    assert text["beside_optimizer"] == text["used"] + step["memory"]["optimizer"]
    assert text["memory"]["temporaries"] == max(text["temporaries"].values()) > 0
    # Nothing need be compiled to see what the answers are made of: twice the slots, and a step that fits where
    # generation does not.
    gives = lambda size: lambda lowered, held, target: (dict(held, temporaries=size), 2**30, "text", 0.0)  # noqa: E731
    monkeypatch.setattr(estimates, "compiled", gives(0))
    monkeypatch.setattr(generations, "compiled", gives(2**31))
    code, found = said(capsys, asked, model, generate="16x100x60")
    step, wider = found["topologies"][0], found["topologies"][0]["generation"]
    assert code == EXIT_DOES_NOT_FIT and step["fits"] and not wider["fits"]
    assert wider["memory"]["cache"] == 2 * text["memory"]["cache"]
    picture = tmp_path / "memory.svg"
    preflight(asked, [], model_config=str(model), generate="8x40x20", picture=str(picture))
    assert "generation</text>" in picture.read_text() and ">cache</text>" in picture.read_text()
    assert "generation, 8 prompts of 40 tokens and 20 new ones each: DOES NOT FIT" in capsys.readouterr().out


def test_generation_of_an_encoder_decoder():
    """The cache of 8 slots on 8 devices: of each decoder layer, keys and values of the reply and of the encoder."""
    asked = config(mesh=MeshConfig(data=1, fsdp=8))
    shapes = Shapes(rows=ROWS, row_length=LENGTH, supervised=LENGTH, segments=4, encoder_length=LENGTH)
    found = generations.generation(asked, T5, shapes, generations.parse("8x40x20"), None)
    assert found.fits and set(found.temporaries) == {"prefill", "decode"}
    positions = cache_length(20) + cache_length(40)
    kept = 2 * T5.decoder_layers * positions * T5.num_heads * T5.head_dim * 4
    assert found.memory["cache"] == kept + cache_length(40)  # and a byte for each position that may be padding


@pytest.mark.parametrize("bad", ["32", "32x512", "0x512x128", "axbxc", "32x512x128x1"])
def test_a_batch_of_prompts_that_is_none(model, bad):
    with pytest.raises(UserError, match=f"--generate={bad}: must be BATCHxPROMPTxNEW"):
        preflight(config(), [], model_config="not looked at yet", generate=bad)


def test_prompts_longer_than_the_model_are_told(model):
    with pytest.raises(UserError, match="the prompt has 4000 tokens; with 20 new ones it exceeds the model's"):
        preflight(config(mesh=MeshConfig(data=1, fsdp=8)), [], model_config=str(model), generate="8x4000x20")


@needs_libtpu
def test_compiled_for_tpus_that_are_not_here(model, capsys):
    asked = config(mesh=MeshConfig(data=1, fsdp=-1))
    code, found = said(capsys, asked, model, ["v5e:2x2", "v6e:2x2"], price=2.0, generate="8x40x20")
    five, six = found["topologies"]
    assert code == 0 and five["fits"] and six["fits"] and five["devices"] == six["chips"] == 4
    assert five["least"]["products"] > six["least"]["products"] > 0
    assert five["bound"] <= five["expected"] and five["mfu"] < 1
    assert five["generation"]["fits"] and six["generation"]["memory"]["cache"] > 0
    assert five["cost"] == pytest.approx(five["hours"] * 4 * 2.0) and five["hours"] == five["expected"] * 10 / 3600
    with pytest.raises(UserError, match="libtpu knows no such topology"):
        topology("v5e:3x5")


@needs_libtpu
def test_what_is_compiled_for_other_devices_is_not_kept(model, capsys, recwarn):
    """JAX could not read it again: the second compile would warn."""
    asked = config(mesh=MeshConfig(data=1, fsdp=-1))
    for _ in range(2):
        jax.clear_caches()
        assert said(capsys, asked, model, ["v5e:2x2"])[0] == 0
    assert not [w for w in recwarn if "compilation cache" in str(w.message)]


@needs_libtpu
def test_slices_lie_along_the_data_axis(model, capsys):
    asked = config(mesh=MeshConfig(data=2, fsdp=-1))
    (one,) = said(capsys, asked, model, ["v5e:2x2*2"])[1]["topologies"]
    assert one["devices"] == 8 and one["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1} and one["least"]["slices"] > 0
