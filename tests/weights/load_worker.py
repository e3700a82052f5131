"""Loads a folder over a mesh of 8 CPU devices, in a process of its own, and prints how much memory that took.

    python load_worker.py FOLDER DATA FSDP TENSOR -> {"baseline", "peak", "model"} in bytes, "differ": [paths]

RssAnon: mapped files don't count.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax  # noqa: E402
import numpy as np  # noqa: E402
from safetensors import safe_open  # noqa: E402

from itune.models.families import read_config  # noqa: E402
from itune.models.spec import model_spec  # noqa: E402
from itune.parallel.config import RULES, MeshConfig  # noqa: E402
from itune.parallel.mesh import make_mesh, param_sharding  # noqa: E402
from itune.weights.load import load_base  # noqa: E402


def anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("no RssAnon in /proc/self/status")


def watch(stop: threading.Event, seen: list[int]) -> None:
    while not stop.is_set():
        seen.append(anonymous())
        time.sleep(0.005)


def main() -> None:
    folder, sizes = Path(sys.argv[1]), dict(zip(("data", "fsdp", "tensor"), map(int, sys.argv[2:5]), strict=True))
    mesh, spec = make_mesh(MeshConfig(**sizes)), model_spec(read_config(folder))
    jax.block_until_ready([jax.device_put(np.zeros(8), device) for device in jax.devices()])
    baseline, seen, stop = anonymous(), [], threading.Event()
    thread = threading.Thread(target=watch, args=(stop, seen))
    thread.start()
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], RULES)  # noqa: E731
    params = load_base(folder, spec, place, frozen_dtype="bfloat16")
    jax.block_until_ready(params)
    stop.set()
    thread.join()
    model = sum(a.nbytes for a in params.values())
    print(json.dumps({"baseline": baseline, "peak": max(seen), "model": model, "differ": differ(folder, params)}))


def differ(folder: Path, params) -> list[str]:
    """Checked by the file itself, bit for bit, at both ends of the stack."""
    found = []
    where = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    names = {
        "layers/mlp/down_proj/w": "model.layers.{n}.mlp.down_proj.weight",
        "layers/attention/k_proj/w": "model.layers.{n}.self_attn.k_proj.weight",
    }
    for path, pattern in names.items():
        for n in (0, params[path].shape[0] - 1):
            name = pattern.format(n=n)
            with safe_open(folder / where[name], framework="numpy") as file:
                theirs = file.get_tensor(name).T
            if not np.array_equal(np.asarray(params[path][n]).view(np.uint16), theirs.view(np.uint16)):
                found.append(name)
    with safe_open(folder / where["model.embed_tokens.weight"], framework="numpy") as file:
        theirs = file.get_tensor("model.embed_tokens.weight")
    return found + ["embed"] * (not np.array_equal(np.asarray(params["embed"]).view(np.uint16), theirs.view(np.uint16)))


if __name__ == "__main__":
    main()
