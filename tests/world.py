"""A whole small world for tests of commands: a random model in Hugging Face layout, a task module, a recipe.

Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

ROOT = Path(__file__).resolve().parent.parent
SPECIAL = ["<unk>", "<s>", "</s>"]

TASKS = '''
"""Sums and echoes, for tests."""
from itune.data import RowSource, Template, add_mixture, add_task


def _rows(split):
    start, stop = (0, 40) if split == "train" else (40, 52)
    for n in range(start, stop):
        a, b = n % 7, n % 5
        yield {"id": f"{split}-{n}", "a": str(a), "b": str(b), "sum": str(a + b), "word": "ab" * (1 + n % 4)}


SOURCE = RowSource(_rows, fields=("a", "b", "sum", "word"), version="1")
COMMON = dict(source=SOURCE, licence="Apache-2.0", metrics=("exact_match",))
ADD = [Template("plus", "{a} plus {b} is", "{sum}"), Template("sum", "sum {a} {b}", "{sum}")]
ECHO = [Template("say", "say {word}", "{word}")]
COUNT = [Template("len", "how long is {word}", "{a}")]
add_task("toy/add", templates=ADD, cluster="sums", identity="toy/sums", **COMMON)
add_task("toy/echo", templates=ECHO, cluster="echo", identity="toy/echo", **COMMON)
add_task("toy/count", templates=COUNT, cluster="count", identity="toy/count", **COMMON)
add_mixture("toy", [("toy/add", 2.0), ("toy/echo", 1.0)])
'''

RECIPE = """
# Command: a test's.
# Hardware: any.
# Time: seconds.
# Metric: none.
include 'gin_configs/base.gin'
MIXTURE_OR_TASK_NAME = "toy"
MIXTURE_OR_TASK_MODULE = ("toy_tasks",)
TASK_FEATURE_LENGTHS = {"inputs": 40, "targets": 16}
TRAIN_STEPS = 8
BATCH_SIZE = 2
MODEL_DIR = "unset"
WeightsConfig.source = "SOURCE"
DataConfig.row_length = 128
DataConfig.window = 16
EvalConfig.held_out = ("toy/count",)
EvalConfig.examples_per_task = 6
EvalConfig.generate_per_task = 2
EvalConfig.generate_tokens = 6
EvalConfig.batch_size = 2
EvalConfig.generate_batch = 8
CheckpointConfig.every = 2
LearningRateConfig.peak = 1e-3
LoggingConfig.tensorboard = False
"""


def write_model(folder: Path, *, seed: int = 0) -> Path:
    """A random two-layer Llama with a byte-level tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(SPECIAL + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    tokenizer.save(str(folder / "tokenizer.json"))
    chat = (
        "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
        "{% if add_generation_prompt %}<s>assistant: {% endif %}"
    )
    special = {"unk_token": SPECIAL[0], "bos_token": SPECIAL[1], "eos_token": SPECIAL[2], "pad_token": SPECIAL[2]}
    (folder / "tokenizer_config.json").write_text(json.dumps(special | {"chat_template": chat}))
    width, mlp, heads, groups, head_dim, layers, vocab = 32, 48, 4, 2, 8, 2, len(vocabulary)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": groups,
        "head_dim": head_dim,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 512,
        "hidden_act": "silu",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config))
    rng = np.random.default_rng(seed)
    make = lambda *shape: (rng.standard_normal(shape) * shape[-1] ** -0.5).astype(np.float32)  # noqa: E731
    tensors = {"model.embed_tokens.weight": make(vocab, width), "model.norm.weight": np.ones(width, np.float32)}
    shapes = {
        "self_attn.q_proj": (heads * head_dim, width),
        "self_attn.k_proj": (groups * head_dim, width),
        "self_attn.v_proj": (groups * head_dim, width),
        "self_attn.o_proj": (width, heads * head_dim),
        "mlp.gate_proj": (mlp, width),
        "mlp.up_proj": (mlp, width),
        "mlp.down_proj": (width, mlp),
    }
    for n in range(layers):
        for name, shape in shapes.items():
            tensors[f"model.layers.{n}.{name}.weight"] = make(*shape)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{n}.{norm}.weight"] = np.ones(width, np.float32)
    save_file(tensors, folder / "model.safetensors")
    return folder


class World:
    """Paths, and `python -m itune...` in processes of their own with `devices` CPU devices."""

    devices = 1

    def __init__(self, folder: Path):
        self.folder = folder
        self.model = write_model(folder / "model")
        (folder / "toy_tasks.py").write_text(TASKS)
        self.recipe = folder / "toy.gin"
        self.recipe.write_text(textwrap.dedent(RECIPE).replace("SOURCE", str(self.model)))
        self.cache = folder / "cache"

    def environment(self) -> dict[str, str]:
        path = os.pathsep.join([str(self.folder), str(ROOT)])
        keep = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "ITUNE_DATA_DIR")}
        flags = f"--xla_force_host_platform_device_count={self.devices}"
        ours = {"PYTHONPATH": path, "ITUNE_CACHE_DIR": str(self.cache), "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
        return keep | ours

    def another_cache(self, name: str) -> Path:
        """As another machine's: nothing of this one's but what was prepared."""
        cache = self.folder / name
        cache.mkdir()
        for path in self.cache.iterdir():
            if path.name != "runs":
                (cache / path.name).symlink_to(path)
        return cache

    def start(self, *arguments: str, module: str = "itune.train") -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train(self, workdir: str, *arguments: str) -> subprocess.CompletedProcess:
        process = self.start_train(workdir, *arguments)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def start_train(self, workdir: str, *arguments: str) -> subprocess.Popen:
        return self.start(f"--gin_file={self.recipe}", f"--workdir={self.folder / workdir}", *arguments)

    def metrics(self, workdir: str) -> list[dict]:
        path = self.folder / workdir / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def losses(self, workdir: str) -> dict[int, float]:
        return {m["step"]: m["loss"] for m in self.metrics(workdir) if "loss" in m}
