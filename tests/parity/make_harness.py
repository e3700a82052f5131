"""Results of lm-evaluation-harness with its own `hf` backend. Runs in .venv-parity."""

from __future__ import annotations

import json
import os
import sysconfig
from pathlib import Path

from tests.parity import families, harness_tasks


def write(folder: Path, models: Path, smollm2: Path) -> None:
    """`folder`/references.json, and the tasks that our_harness.py runs again.

    models: what make_families.py wrote; gets tokenizers.  smollm2: a Hugging Face folder.
    """
    harness_tasks.write(folder / "tasks")
    # Read when `datasets` loads, which lm-eval does.
    os.environ |= {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1"}
    from lm_eval.models.huggingface import HFLM

    runs = {}
    for name, (model, tasks, chat) in harness_tasks.RUNS.items():
        path = smollm2
        if model in harness_tasks.TINY:
            path = models / model
            harness_tasks.write_tokenizer(path, encoder=model in families.T5S)
        # Eager: the other implementations leave out soft-caps. The softmax's rounding in float32 over a vocabulary of
        # 49,152 adds up to 1e-3 nats in a text of 135 tokens; that of the model itself is a tenth of it.
        settings = {"dtype": "float32", "softmax_dtype": "float64", "attn_implementation": "eager"}
        length = families.SIZES["max_position_embeddings"] if model in families.T5S else None
        lm = HFLM(pretrained=str(path), device="cpu", batch_size=1, max_length=length, **settings)
        runs[name] = harness_tasks.results(lm, folder / "tasks", tasks, chat)
    # Where lm-eval is, so that the other environment, which has JAX, finds it.
    about = {"packages": sysconfig.get_path("purelib"), "python": sysconfig.get_python_version()}
    (folder / "references.json").write_text(json.dumps(about | {"runs": runs}, indent=1), "utf-8")
