"""Each way to lay a model on devices, by what its compiled step sends: a bad rule shows here."""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from pathlib import Path

import jax
import pytest
from jax.sharding import PartitionSpec as P

from itune.config.run import RunConfig
from itune.data.config import DataConfig
from itune.models.config import EncoderDecoderConfig, FullConfig, LayerKind, LoRAConfig, ModelConfig
from itune.parallel import gradients
from itune.parallel.collectives import Collective, collectives
from itune.parallel.config import PRESETS, MeshConfig
from itune.parallel.mesh import make_mesh
from itune.parallel.topology import compile_for_topology, topology
from itune.training.abstract import Shapes, abstract_step
from itune.training.config import TrainConfig
from itune.training.setup import StepParts, step_parts
from tests import tiny

FETCHED = Path(__file__).parents[2] / ".libtpu" / "libtpu" / "libtpu.so"
LAYERS, ROWS, LENGTH, VOCAB = 3, 8, 128, 640
WIDE = 8192  # two tiles of a split head
MODEL: ModelConfig = dataclasses.replace(
    tiny.CONFIG, vocab_size=VOCAB, width=64, head_dim=16, mlp_width=256, num_kv_heads=4, layers=(LayerKind(),) * LAYERS
)
T5 = EncoderDecoderConfig(
    family="t5",
    vocab_size=VOCAB,
    width=64,
    num_heads=4,
    head_dim=16,
    mlp_width=256,
    encoder_layers=LAYERS,
    decoder_layers=LAYERS,
    norm_eps=1e-6,
    tied_embeddings=True,
    scaled_outputs=False,
    activation="relu",
    gated=False,
    relative_buckets=8,
    relative_max_distance=32,
)
MULTI_QUERY = dataclasses.replace(MODEL, num_kv_heads=1)
DEVICES = 8


SHAPES = Shapes(rows=ROWS, row_length=LENGTH, supervised=LENGTH, segments=4)


def step_parts_of(mesh_config: MeshConfig, tuning, model) -> StepParts:
    data = DataConfig(mixture="none", feature_lengths={"inputs": 96, "targets": 32}, row_length=LENGTH)
    train = TrainConfig(steps=1, batch_size=ROWS)
    config = RunConfig(model_dir="none", data=data, train=train, tuning=tuning, mesh=mesh_config)
    mesh = make_mesh(mesh_config, jax.devices()[: 1 if mesh_config.data == 1 == mesh_config.fsdp else DEVICES])
    return step_parts(config, model, mesh, num_tasks=1, num_segments=4)


def compiled(mesh_config: MeshConfig, tuning, model=MODEL, encoder_length: int = 0):
    """(a step's program, its parts, its mesh)."""
    parts = step_parts_of(mesh_config, tuning, model)
    shapes = dataclasses.replace(SHAPES, encoder_length=encoder_length)
    text = parts.jitted().lower(*abstract_step(parts, shapes)).compile().as_text()
    return text, parts, parts.compute.mesh


def sent(*asked, **more) -> tuple[list[Collective], int]:
    """(collectives of a step, bytes of what it trains)."""
    text, parts, mesh = compiled(*asked, **more)
    trained = sum(math.prod(parts.spec.shapes[path]) * 4 for path in parts.spec.trainable)
    return collectives(text, mesh), trained


def test_a_preset_gives_the_axes_that_are_left_out():
    shapes = {
        name: tuple(make_mesh(MeshConfig(preset=name), jax.devices()[:DEVICES]).shape.values()) for name in PRESETS
    }
    assert shapes == {"dp": (8, 1, 1), "fsdp": (1, 8, 1), "fsdp_tensor": (1, 4, 2), "2d": (2, 2, 2)}
    four = MeshConfig(preset="fsdp_tensor", tensor=4)
    assert (four.data, four.fsdp, four.tensor) == (1, -1, 4)
    assert four == MeshConfig(data=1, tensor=4, fsdp=-1), "one run, however its mesh is said"
    with pytest.raises(
        ValueError, match=r"MeshConfig.preset='fsdp_tensr' must be one of .'dp', 'fsdp', 'fsdp_tensor', '2d'"
    ):
        MeshConfig(preset="fsdp_tensr")


@pytest.mark.parametrize(
    "mesh", [MeshConfig(data=1), MeshConfig(preset="fsdp_tensor")], ids=["one device", "fsdp_tensor"]
)
@pytest.mark.parametrize(("model", "encoder"), [(MODEL, 0), (T5, LENGTH)], ids=["decoder", "encoder-decoder"])
def test_no_array_of_all_logits_is_made(mesh, model, encoder):
    """Of a device's supervised positions by the vocabulary or its part of it, in whatever shape."""
    model = dataclasses.replace(model, vocab_size=2 * WIDE)
    text, _, laid = compiled(mesh, FullConfig(), model, encoder)
    positions = ROWS * LENGTH // (laid.shape["data"] * laid.shape["fsdp"])
    words = model.vocab_size // laid.shape["tensor"]
    shapes = {tuple(int(n) for n in found.split(",")) for found in re.findall(r"f32\[([\d,]+)\]", text)}
    assert any(words in shape or words // 2 in shape for shape in shapes), "the head is in the program"
    assert not [
        shape for shape in shapes if shape[-1] in (words, model.vocab_size) and math.prod(shape) >= positions * words
    ]


MODELS = [(MODEL, preset) for preset in PRESETS] + [(MULTI_QUERY, "fsdp_tensor")]


@pytest.mark.parametrize(("model", "preset"), MODELS, ids=[*PRESETS, "multi-query"])
def test_no_logits_and_no_stacked_layers_are_gathered(model, preset):
    found, _ = sent(MeshConfig(preset=preset), FullConfig(), model)
    for one in found:
        for _, shape in one.shapes:
            assert not (len(shape) > 1 and shape[-1] == VOCAB and shape[-2] >= LENGTH), f"logits: {one}"
            stacked = one.kind == "all-gather" and len(shape) > 2 and shape[0] == LAYERS
            assert not (stacked and math.prod(shape) >= LAYERS * MODEL.width * MODEL.width), f"all layers: {one}"


def test_data_parallel_sends_gradients_once_and_nothing_else_of_size():
    found, trained = sent(MeshConfig(preset="dp"), FullConfig())
    assert {one.kind for one in found} == {"all-reduce"} and {one.axes for one in found} == {"data"}
    total = sum(one.times * one.moved for one in found)
    # A tied embedding's gradient comes in two parts, of the lookup and of the head, and each is summed over devices.
    least = 2 * (trained + VOCAB * MODEL.width * 4) * 7 / 8
    assert least <= total < 1.02 * least, (total, least)


def test_adapters_send_their_own_gradients_only():
    found, trained = sent(MeshConfig(preset="dp"), LoRAConfig(rank=2))
    total = sum(one.times * one.moved for one in found)
    least = 2 * trained * 7 / 8
    assert least <= total < 1.1 * least + 4096, (total, least)


@pytest.mark.parametrize("preset", ["fsdp", "fsdp_tensor", "2d"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "head"])
def test_a_split_vocabulary_is_whole_nowhere(preset, tied):
    """Neither the embedding and the head, nor their gradients, nor one tensor device's part of them at full width."""
    model = dataclasses.replace(MODEL, tied_embeddings=tied)
    found, _ = sent(MeshConfig(preset=preset), FullConfig(), model)
    words = VOCAB // MeshConfig(preset=preset).tensor
    for one in found:
        for _, shape in one.shapes:
            at_full_width = MODEL.width in shape and math.prod(shape) >= words * MODEL.width
            assert not (at_full_width and one.kind != "all-gather"), f"a whole gradient: {one}"
            # A tile of the head is gathered inside the loop over tiles; there is only one of this small vocabulary.
            assert not (at_full_width and "shard_map" not in one.where), f"a whole table: {one}"
            assert math.prod(shape) < VOCAB * MODEL.width or words == VOCAB, f"what tensor splits: {one}"


def test_fsdp_gathers_each_layer_inside_its_loop():
    found, _ = sent(MeshConfig(preset="fsdp"), FullConfig())
    gathers = [one for one in found if one.kind == "all-gather"]
    weights = [one for one in gathers if any(set(s[-2:]) >= {MODEL.width, MODEL.mlp_width} for _, s in one.shapes)]
    assert weights and all(one.times % LAYERS == 0 for one in weights), weights


def test_an_only_key_value_head_is_copied_over_tensor_and_its_gradient_summed():
    found, _ = sent(MeshConfig(preset="fsdp_tensor"), FullConfig(), MULTI_QUERY)
    gathers = [one for one in found if one.kind == "all-gather"]
    assert {one.axes for one in gathers} == {"fsdp"}, "what tensor splits, it gathers nowhere"
    # Queries' weights and those back from them are split in two, keys' and values' are whole on each device: one head.
    head = MODEL.head_dim
    halves = {(MODEL.width, 2 * head), (2 * head, MODEL.width), (MODEL.width, MODEL.mlp_width // 2), (MODEL.width,)}
    inside = {shape for one in gathers if "/while/" in one.where and one.times == LAYERS for _, shape in one.shapes}
    assert inside == halves | {(MODEL.mlp_width // 2, MODEL.width), (MODEL.width, head)}
    outside = {shape for one in gathers if one.times != LAYERS for _, shape in one.shapes}
    assert outside == {(ROWS, LENGTH), (MODEL.width,), (384, MODEL.width)}, "tokens, the final norm, a tile of the head"
    # Each device has the gradient of its own queries' keys and values; they are added up in every layer.
    sums = [one for one in found if one.kind == "all-reduce" and one.axes == "tensor"]
    mine = [(one.times, s) for one in sums for _, s in one.shapes if s == (ROWS // 4, LENGTH, 1, head)]
    assert [times for times, _ in mine] == [LAYERS, LAYERS], sums


def counted(kind: str, axes: str, rule: str = "") -> tuple[Counter, int]:
    """({shape: times a step}, bytes) of such collectives under fsdp_tensor, with `rule` copied over its axis."""
    found, _ = sent(MeshConfig(preset="fsdp_tensor", rules={rule: None} if rule else {}), FullConfig())
    times, size = Counter(), 0
    for one in found:
        if (one.kind, one.axes) == (kind, axes):
            times.update({shape: one.times for _, shape in one.shapes})
            size += one.times * one.moved
    return times, size


def test_a_bad_rule_shows_in_what_is_sent():
    """What tensor no longer splits, each of its devices gathers whole: three quarters of it come from the others."""
    (times, size), (of_mlp, mlp_size), (of_vocab, vocab_size) = (
        counted("all-gather", "fsdp", rule) for rule in ("", "mlp", "vocab")
    )
    width, mlp = MODEL.width, MODEL.mlp_width
    # Each of three matrices, forward and backward.
    assert times[width, mlp // 2] + times[mlp // 2, width] == of_mlp[width, mlp] + of_mlp[mlp, width] == 6 * LAYERS
    assert not times[width, mlp] + times[mlp, width] + of_mlp[width, mlp // 2] + of_mlp[mlp // 2, width]
    assert mlp_size - size == 6 * LAYERS * (width * mlp // 2) * 4 * 3 // 4
    # A tensor device's 320 words fill a tile of 384, all 640 one of their own.
    assert times[384, width] == of_vocab[VOCAB, width] == 1 and not times[VOCAB, width] + of_vocab[384, width]
    assert vocab_size - size == (VOCAB - 384) * width * 4 * 3 // 4


def test_all_that_a_rule_is_for_follows_it():
    """A layer's parameters, the head's tiles: above. Here the optimizer's moments, and the lookup."""
    looked_up = (ROWS, LENGTH, MODEL.width // 4)
    (summed, _), (by_rule, _) = (counted("all-reduce", "tensor", rule) for rule in ("", "vocab"))
    assert summed[looked_up] == 2 and not by_rule[looked_up], "with all words at hand none is looked up elsewhere"
    asked = MeshConfig(preset="fsdp_tensor", rules={"mlp": None})
    state = abstract_step(step_parts_of(asked, FullConfig(), MODEL), SHAPES)[0]
    moments = [(getattr(keys[-1], "key", ""), leaf) for keys, leaf in jax.tree.leaves_with_path(state.opt_state)]
    moments = [(path, leaf) for path, leaf in moments if path in state.params]
    assert len(moments) == 2 * len(state.params)
    assert all(leaf.sharding == state.params[path].sharding for path, leaf in moments)
    assert state.params["layers/mlp/up_proj/w"].sharding.spec == P(None, "fsdp", None)


@pytest.mark.parametrize("preset", ["fsdp", "2d"])
def test_an_encoder_decoders_rows_stay_where_they_are(preset):
    """Its gradients are summed, its weights gathered; no activation is, of which a layer has several."""
    found, _ = sent(MeshConfig(preset=preset), FullConfig(), T5, encoder_length=2 * LENGTH)
    rows = {ROWS * LENGTH, 2 * ROWS * LENGTH}
    for one in found:
        if "/while/" in one.where:
            assert not [shape for _, shape in one.shapes if rows & set(shape)], one
            assert not [shape for _, shape in one.shapes if shape[0:1] == (ROWS,) and len(shape) == 3], one


def whole_gradients(topology_name: str, mesh_config: MeshConfig) -> list[Collective]:
    """All-reduces of a matrix's gradient, for TPUs that are not here.

    libtpu gathers small weights by an all-reduce, too: those carry no operation's name.
    """
    mesh = make_mesh(mesh_config, topology(topology_name).devices)
    model = dataclasses.replace(MODEL, width=256, head_dim=64, mlp_width=1024, tied_embeddings=False)
    rows = math.prod((mesh.shape["data"], mesh.shape["fsdp"]))
    data = DataConfig(mixture="none", feature_lengths={"inputs": 96, "targets": 32}, row_length=LENGTH)
    train = TrainConfig(steps=1, batch_size=rows)
    config = RunConfig(model_dir="none", data=data, train=train, tuning=FullConfig())
    parts = step_parts(config, model, mesh, num_tasks=1, num_segments=4)
    shapes = Shapes(rows=rows, row_length=LENGTH, supervised=LENGTH, segments=4)
    program = compile_for_topology(parts.jitted().lower(*abstract_step(parts, shapes)))
    found = collectives(program.as_text(), mesh)
    sizes = {model.width * model.mlp_width, VOCAB * model.width}
    summed = [one for one in found if one.kind == "all-reduce" and one.where]
    return [one for one in summed if any(math.prod(shape) in sizes for _, shape in one.shapes)]


@pytest.mark.skipif(not FETCHED.is_file(), reason="needs `make libtpu`")
def test_on_a_tpus_torus_no_gradient_is_summed_to_every_chip(monkeypatch):
    asked = ("v5e:4x4", MeshConfig(data=1, fsdp=16))
    assert not whole_gradients(*asked)
    monkeypatch.setattr(gradients, "LEAST_SPLIT", 10**6)
    gradients.staged_mesh.cache_clear()
    # Shows as well that the program has gradients to sum.
    assert whole_gradients(*asked), "in one stage libtpu sums all to all: if no more, stages are needed no more"
    gradients.staged_mesh.cache_clear()
