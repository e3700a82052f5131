"""Tasks for lm-evaluation-harness in files of their own, and their results with any of its models.

Both environments run `results`: one with lm-eval's `hf` backend, the other with ours.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.parity import families

CHOICE, WORD, WRITE, TEXT = "parity_choice", "parity_word", "parity_write", "parity_text"
ALL = (CHOICE, WORD, WRITE, TEXT)
TINY = ("llama", "gemma2", "t5")
SMOLLM2 = "smollm2-135m-instruct"
# name: (model, tasks, whether in its chat template). The tiny ones have 64 positions, which some of the texts exceed.
RUNS: dict[str, tuple[str, Sequence[str], bool]] = {
    **{name: (name, ALL, False) for name in TINY},
    SMOLLM2: (SMOLLM2, ALL, False),
    f"{SMOLLM2} in chats": (SMOLLM2, (CHOICE, WRITE), True),
}
TOLERANCE = 1e-3  # nats, of a request

STORY = (
    "The river rose in the night. At dawn the miller went out with a lamp, looked over the wall and saw that the "
    "lower field had gone; where the barley stood there was brown water, and on it a gate, a hen house and one "
    "boot. He went in again and said nothing, for the others were asleep. "
)
QUESTIONS = (
    ("The capital of France is", ["Paris", "London", "a kind of bread"]),
    ("Fire is hot and ice is ", ["cold", "warm", "hot", "a fire"]),
    ("", ["The dog ran.", "Dog the ran the."]),
    ("A boat goes over", ["water", "the"]),
    (STORY + "The field was under", ["water", "snow", "glass"]),
    ("Question: do hens fly well?\nAnswer:", ["no", "yes"]),
)
WRITTEN = (
    ("The capital of France is", "Paris"),
    ("Say a word that rhymes with boat. Word:", "goat"),
    ("The opposite of cold is ", "hot"),
    (STORY + "Then the miller said:", "Get up"),
)
TEXTS = (STORY, STORY * 2, "A hen.", "  Two spaces, then\n\na new line.")

COMMON = {"dataset_path": "json", "test_split": "test", "training_split": "train", "metadata": {"version": 1}}
TASKS: dict[str, dict[str, Any]] = {
    CHOICE: {
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "{{options}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    },
    WORD: {
        "output_type": "loglikelihood",
        "doc_to_text": "{{question}}",
        "doc_to_target": " {{answer}}",
        "metric_list": [{"metric": "perplexity"}, {"metric": "acc"}],
    },
    WRITE: {
        "output_type": "generate_until",
        "doc_to_text": "{{question}}",
        "doc_to_target": "{{answer}}",
        "num_fewshot": 1,
        "fewshot_config": {"sampler": "first_n"},
        "generation_kwargs": {"until": ["\n", ". "], "max_gen_toks": 10, "do_sample": False, "top_p": 0.9},
        "metric_list": [{"metric": "exact_match"}, {"metric": "chrf"}],
    },
    TEXT: {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": name} for name in ("word_perplexity", "byte_perplexity", "bits_per_byte")],
    },
}


def rows() -> dict[str, list[dict[str, Any]]]:
    written = [{"question": question, "answer": answer} for question, answer in WRITTEN]
    return {
        CHOICE: [{"question": q, "options": o, "label": n % len(o)} for n, (q, o) in enumerate(QUESTIONS)],
        WORD: [*written, {"question": "Monday, Tuesday, Wednesday, Thursday,", "answer": "Friday"}],  # so does SmolLM2
        WRITE: written,
        TEXT: [{"text": text} for text in TEXTS],
    }


def write(folder: Path) -> None:
    """`folder` with a file of each task (YAML, which JSON is) and its rows; the first is the exemplar, too."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, found in rows().items():
        files = {}
        for split, chosen in (("train", found[:1]), ("test", found)):
            path = folder / f"{name}_{split}.jsonl"
            path.write_text("".join(json.dumps(row) + "\n" for row in chosen), "utf-8")
            files[split] = str(path.resolve())
        task = {"task": name, **COMMON, "dataset_kwargs": {"data_files": files}, **TASKS[name]}
        (folder / f"{name}.yaml").write_text(json.dumps(task, indent=1), "utf-8")


def write_tokenizer(folder: Path, encoder: bool) -> None:
    """A tiny model's: characters and a few pairs, `<s>` before every text; of an encoder-decoder, `</s>` behind it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    names = ["<pad>", "</s>", "<unk>"] if encoder else ["<pad>", "<s>", "</s>", "<unk>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=families.SIZES["vocab_size"], special_tokens=names, show_progress=False)
    tokenizer.train_from_iterator([json.dumps(rows(), ensure_ascii=False), "\n"], trainer)
    if not encoder:
        special["bos_token"] = "<s>"
    around = "$A </s>" if encoder else "<s> $A"
    pairs = [(name, tokenizer.token_to_id(name)) for name in ("</s>" if encoder else "<s>",)]
    tokenizer.post_processor = processors.TemplateProcessing(single=around, special_tokens=pairs)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = special | {"tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")


def results(lm: Any, folder: Path, tasks: Sequence[str], chat: bool) -> dict[str, Any]:
    """{"metrics": {task: {name: value}}, "samples": {task: [{"arguments", "resps"}]}}

    lm: an `LM` of lm-eval's.  folder: what `write` wrote.
    """
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar for each request
        found = simple_evaluate(
            model=lm,
            tasks=list(tasks),
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
            apply_chat_template=chat,
            log_samples=True,
        )
    metrics = {
        task: {name: value for name, value in values.items() if isinstance(value, float)}
        for task, values in found["results"].items()
    }
    samples = {
        task: [{"arguments": row["arguments"], "resps": row["resps"]} for row in sorted(done, key=_number)]
        for task, done in found["samples"].items()
    }
    # As JSON has it: tuples become lists.
    return json.loads(json.dumps({"metrics": metrics, "samples": samples}))


def _number(row: dict[str, Any]) -> int:
    return row["doc_id"]
