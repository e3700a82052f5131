"""What a checkpoint promises, without a run around it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.errors import UserError
from itune.training.checkpoint import Checkpoints, verify
from itune.training.config import AdamWConfig, CheckpointConfig
from itune.training.metrics import cut_back
from itune.training.optim import make_optimizer
from itune.training.step import TrainState
from tests import tiny


def state_at(step: int) -> TrainState:
    params = {p: a for p, a in tiny.params(tiny.spec("lora"), step).items() if p in tiny.spec("lora").trainable}
    return TrainState(params, make_optimizer(AdamWConfig()).init(params), jnp.int32(step))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=2))
    for step, loss in ((10, 3.0), (20, 1.0), (30, 2.0), (40, 4.0), (50, 5.0)):
        checkpoints.save(state_at(step), {"row": step * 2}, loss=loss)
        checkpoints.poll()
    checkpoints.finish()
    return folder, checkpoints


def test_the_newest_and_the_best_are_kept(saved):
    folder, checkpoints = saved
    assert checkpoints.steps() == [20, 40, 50]
    assert sorted(p.stem for p in (folder / "checkpoints" / "digests").iterdir()) == ["20", "40", "50"]
    assert not (folder / "checkpoints" / "deleted").exists()


def test_a_state_comes_back_bit_for_bit(saved):
    state, meta = saved[1].restore(20, state_at(1))
    assert meta == {"row": 40}
    for got, want in zip(jax.tree.leaves(state), jax.tree.leaves(state_at(20)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_only_what_trains_is_stored(saved):
    assert set(saved[1].restore_params(40)) == tiny.spec("lora").trainable


def test_any_flipped_bit_is_found(saved):
    folder, checkpoints = saved
    root = folder / "checkpoints" / "40"
    files = [p for p in root.rglob("*") if p.is_file() and p.stat().st_size]
    rng = np.random.default_rng(0)
    for path in files:
        good = path.read_bytes()
        bad = bytearray(good)
        bad[rng.integers(len(bad))] ^= 1 << rng.integers(8)
        path.write_bytes(bad)
        with pytest.raises(UserError, match="is damaged"):
            checkpoints.restore(40, state_at(1))
        path.write_bytes(good)
    assert verify(folder / "checkpoints", 40)


def test_a_missing_file_is_found(saved):
    folder, _ = saved
    path = folder / "checkpoints" / "40" / "meta" / "metadata"
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(UserError, match="is damaged"):
        verify(folder / "checkpoints", 40)
    path.write_bytes(data)


def test_another_models_checkpoint_is_refused_in_one_line(saved):
    other = tiny.spec("lora", rank=2)
    params = {p: a for p, a in tiny.params(other).items() if p in other.trainable}
    like = TrainState(params, make_optimizer(AdamWConfig()).init(params), jnp.int32(0))
    with pytest.raises(
        UserError, match=r"does not fit what this run trains \(.*lora_a is \(.*\) there and \(.*\) here"
    ):
        saved[1].restore(50, like)


def test_metrics_are_cut_back_to_the_restored_step(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": n, "loss": 1.0 / (n + 1)} for n in range(6)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 6, "lo')
    cut_back(path, 3)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
