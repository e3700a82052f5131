"""How costs grow: a step's time by layers, rows and devices, a plan's by tasks. Tiny models; a few minutes.

    .venv/bin/python benchmarks/growth.py [--json_out FILE] [--svg docs/images/growth.svg]

Devices are fakes that share this machine's cores: each gets four rows, so that a step that costs the same a row grows
with their number, and what is more than that is what dividing costs. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

LAYERS, ROWS, DEVICES, TASKS = (2, 4, 8, 16, 32), (1, 2, 4, 8, 16), (1, 2, 4, 8), (10, 50, 200, 500, 1000, 2000)
LENGTH, REPEATS = 512, 5
STYLE = (
    ".grid{stroke:#ddd}.axis{stroke:#666}text{font:11px sans-serif;fill:#444}"
    "path,polyline{fill:none;stroke:#2563eb;stroke-width:2}circle{fill:#2563eb}"
)
SVG = "http://www.w3.org/2000/svg"


def step_seconds(layers: int, rows: int, devices: int) -> dict[str, float]:
    """{"compile": ..., "step": the best of a few} of a LoRA step of a tiny model on so many fake devices."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from itune.batch import Batch
    from itune.models.compute import Compute
    from itune.models.config import LayerKind, LoRAConfig, ModelConfig
    from itune.models.spec import init_params, model_spec
    from itune.parallel.config import MeshConfig
    from itune.parallel.mesh import batch_sharding, make_mesh
    from itune.training.config import AdamWConfig
    from itune.training.optim import make_optimizer
    from itune.training.step import StepSettings, TrainState, make_train_step

    config = ModelConfig(
        family="llama",
        vocab_size=1024,
        width=128,
        num_heads=4,
        num_kv_heads=2,
        head_dim=32,
        mlp_width=384,
        layers=(LayerKind(),) * layers,
        norm_eps=1e-5,
        tied_embeddings=True,
        max_positions=LENGTH,
    )
    spec = model_spec(config, LoRAConfig(rank=8))
    mesh = make_mesh(MeshConfig(fsdp=1, data=devices))
    params = init_params(spec, 0, spec.paths)
    trains = {path: params[path] for path in spec.trainable}
    frozen = {path: array for path, array in params.items() if path not in trains}
    optimizer = make_optimizer(AdamWConfig())
    state = TrainState(trains, optimizer.init(trains), jnp.zeros((), jnp.int32))
    whole = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    state, frozen = jax.device_put((state, frozen), whole)
    at = np.arange(LENGTH, dtype=np.int32)
    ones = np.ones((rows, 1), np.int32)
    batch = Batch(
        tokens=ones * (at % 1000),
        segment_ids=ones * (at // (LENGTH // 4) + 1),
        positions=ones * (at % (LENGTH // 4)),
        loss_index=ones * at[: LENGTH // 4],
        loss_targets=ones * at[1 : LENGTH // 4 + 1] % 1000,
        loss_weights=np.ones((rows, LENGTH // 4), np.float32),
        loss_task=ones * 0 * at[: LENGTH // 4],
        row_ids=np.zeros((rows, 2), np.int32),
    )
    batch = jax.device_put(batch, batch_sharding(mesh))
    settings = StepSettings(num_tasks=1, num_segments=4, compute=Compute(mesh=mesh))
    run = jax.jit(make_train_step(spec, optimizer, settings))
    rate, key = {"learning_rate": jnp.float32(1e-4)}, jax.random.key(0)
    begin = time.perf_counter()
    compiled = run.lower(state, frozen, batch, rate, key).compile()
    took = {"compile": time.perf_counter() - begin}
    times = []
    for _ in range(REPEATS + 1):
        begin = time.perf_counter()
        jax.block_until_ready(compiled(state, frozen, batch, rate, key))
        times.append(time.perf_counter() - begin)
    return took | {"step": min(times[1:])}


def plan_seconds(tasks: int) -> float:
    """From tasks' lengths to the first row of a run's plan; 100 examples a task."""
    import numpy as np

    from itune.data.plan_tasks import PlanTask, TaskIndex
    from itune.data.schedule import Plan

    made = []
    for number in range(tasks):
        rng, zeros = np.random.default_rng(number), np.zeros(100, np.int32)
        index = TaskIndex(
            inputs=rng.integers(20, 200, 100).astype(np.int32),
            targets=rng.integers(5, 50, 100).astype(np.int32),
            example_key=rng.integers(0, 2**63, 100).astype(np.uint64),
            template=zeros.astype(np.int16),
            shard=zeros,
            offset=zeros,
        )
        made.append(PlanTask(name=f"t{number}", identity=f"t{number}", rate=1.0, index=index))
    begin = time.perf_counter()
    plan = Plan(made, seed=0, row_length=512, feature_lengths={"inputs": 384, "targets": 128})
    plan.row(0)
    return time.perf_counter() - begin


def child(layers: int, rows: int, devices: int) -> dict[str, float]:
    flags = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, "--one", str(layers), str(rows), str(devices)]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{layers} layers, {rows} rows, {devices} devices: {found['step']:.3f} s", flush=True)
    return {name: round(value, 4) for name, value in found.items()}


def write_svg(record: dict[str, Any], path: Path) -> None:
    from itune.evaluation.charts import Series, line_chart

    wanted = (
        ("layers", "step", "seconds a step, by layers"),
        ("layers", "compile", "seconds to compile, by layers"),
        ("rows", "step", "seconds a step, by rows"),
        ("devices", "step", "seconds a step, by devices of 4 rows"),
        ("tasks", "plan", "seconds to a plan's first row, by tasks"),
    )
    parts = []
    for n, (axis, what, title) in enumerate(wanted):
        points = [(float(x), row[what]) for x, row in record["growth"][axis].items()]
        chart = line_chart([Series(name=title, points=points, style="line")], label=title, x_label=axis, from_zero=True)
        chart = chart.replace("<svg ", f'<svg x="{n % 3 * 350}" y="{n // 3 * 225 + 22}" width="340" height="190" ', 1)
        parts.append(f'<text x="{n % 3 * 350 + 44}" y="{n // 3 * 225 + 15}">{title}</text>{chart}')
    head = (
        f'<svg xmlns="{SVG}" viewBox="0 0 1050 450"><style>{STYLE}</style><rect width="1050" height="450" fill="#fff"/>'
    )
    path.write_text(head + "".join(parts) + "</svg>\n", "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    parser.add_argument("--svg", help="draw the plots into this file")
    parser.add_argument("--one", type=int, nargs=3, metavar=("LAYERS", "ROWS", "DEVICES"), help="one point, as JSON")
    flags = parser.parse_args()
    if flags.one:
        print(json.dumps(step_seconds(*flags.one)))
        return
    from benchmarks.train_step import machine

    load_before = os.getloadavg()[0]
    growth = {
        "layers": {n: child(n, 4, 1) for n in LAYERS},
        "rows": {n: child(4, n, 1) for n in ROWS},
        "devices": {n: child(4, 4 * n, n) for n in DEVICES},
        "tasks": {n: {"plan": round(plan_seconds(n), 4)} for n in TASKS},
    }
    record = {"name": "growth", "unit": "s", "machine": machine(), "date": datetime.date.today().isoformat()}
    record |= {"command": "python benchmarks/growth.py", "growth": growth, "load_before": round(load_before, 2)}
    line = json.dumps(record)
    if flags.json_out:
        Path(flags.json_out).write_text(line + "\n", "utf-8")
    if flags.svg:
        write_svg(json.loads(line), Path(flags.svg))
    print(line)


if __name__ == "__main__":
    main()
