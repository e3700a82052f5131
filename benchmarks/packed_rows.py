"""Writes the packed batches that all sides train on: python benchmarks/packed_rows.py JOB.json (see train_step.py).

Texts become tokens with the model's own tokenizer, as `itune.prepare` makes them (prompt, newline, completion, EOS),
and rows with the training schedule and feed. A process of its own: the tasks' package loads SeqIO, which nobody else
needs.
"""

from __future__ import annotations

import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from itune.batch import Batch  # noqa: E402
from itune.data.converters import assemble  # noqa: E402
from itune.data.plan_tasks import PlanTask, TaskIndex  # noqa: E402
from itune.data.prompt import BadRecord, render_spans  # noqa: E402
from itune.data.records import Record, example_key  # noqa: E402
from itune.data.schedule import Plan  # noqa: E402
from itune.data.templates import RenderContext, choose_template, load_templates  # noqa: E402
from itune.data.tokenizer import Tokenizer  # noqa: E402

IGNORED = -100  # the label of a position without loss, as transformers has it
ROWS_PER_TASK = 50
SPAN_FIELDS = ("tokens", "segment_ids", "positions")
LOSS_FIELDS = ("loss_index", "loss_targets", "loss_weights", "loss_task")


class MemoryReader:
    """Records in memory, behind the face of `itune.data.feed.Reader`."""

    def __init__(self, records: Sequence[Record]):
        self._records = records

    def record(self, task: int, record: int) -> Record:
        return self._records[record]


def clinic_rows() -> list[tuple[str, str]]:
    """(prompt, completion): the first rows of every synthetic clinical training task; the same on every machine."""
    from tasks.clinic import TRAIN_TASKS
    from tasks.synthetic_clinic.items import rows

    found = []
    for name in TRAIN_TASKS:
        templates = load_templates(ROOT / "tasks" / "templates" / f"{name.replace('/', '_')}.yaml")
        for row in itertools.islice(rows(name, "train"), ROWS_PER_TASK):
            template = choose_template(templates, identity=name, source_id=row["id"], context=RenderContext())
            found.append(template.render(row))
    return found


def file_rows(path: Path) -> list[tuple[str, str]]:
    """(prompt, completion) of every line of a JSONL file that has both."""
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            found.append((row["prompt"].rstrip("\n"), row["completion"]))
        except (ValueError, KeyError, TypeError, AttributeError):
            sys.exit(f'{path}:{number}: expected a JSON object {{"prompt": text, "completion": text}}')
    return found


def make_records(rows: Sequence[tuple[str, str]], tokenizer: Tokenizer) -> list[Record]:
    records = []
    for number, (prompt, completion) in enumerate(rows):
        try:
            spans = render_spans(
                tokenizer,
                "plain",
                inputs=tokenizer.encode(prompt),
                targets=tokenizer.encode(completion),
                inputs_text=prompt,
                targets_text=completion,
            )
        except BadRecord as error:
            sys.exit(f"row {number + 1}: {error}")
        record = Record(spans=spans, id=str(number), task="rows", split="train", example=number, variant=0)
        records.append(record)
    return records


def make_plan(records: Sequence[Record], row_length: int) -> Plan:
    """The schedule of a run over one task; inputs may have three quarters of a row, targets one."""
    n = len(records)
    zeros = np.zeros(n, np.int32)
    index = TaskIndex(
        inputs=np.array([r.num_tokens(supervised=False) for r in records], np.int32),
        targets=np.array([r.num_tokens(supervised=True) for r in records], np.int32),
        example_key=np.array([example_key("rows", r.id) for r in records], np.uint64),
        template=zeros.astype(np.int16),
        shard=zeros,
        offset=zeros,
    )
    task = PlanTask(name="rows", identity="rows", rate=1.0, index=index)
    lengths = {"inputs": row_length - row_length // 4, "targets": row_length // 4}
    return Plan([task], seed=0, row_length=row_length, feature_lengths=lengths)


def labels_of(batch: Batch) -> np.ndarray:
    """[B, L] as transformers wants them: the token itself where it is to be predicted, else IGNORED."""
    labels = np.full_like(batch.tokens, IGNORED)
    row, t = np.nonzero(batch.loss_weights)
    column = batch.loss_index[row, t] + 1
    labels[row, column] = batch.loss_targets[row, t]
    assert (labels[row, column] == batch.tokens[row, column]).all()
    return labels


def main() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text("utf-8"))
    rows = file_rows(Path(job["rows"])) if job["rows"] else clinic_rows()
    if not rows:
        sys.exit(f"{job['rows']}: no rows in it")
    records = make_records(rows, Tokenizer.from_folder(Path(job["folder"])))
    plan, reader, size = make_plan(records, job["length"]), MemoryReader(records), job["batch"]
    batches = []
    for n in range(job["warmup"] + job["steps"]):
        batches.append(assemble([plan.row(n * size + i) for i in range(size)], plan, reader, loss_norm="tokens"))
    arrays = {f: np.stack([getattr(b, f) for b in batches]) for f in (*SPAN_FIELDS, *LOSS_FIELDS, "row_ids")}
    arrays["labels"] = np.stack([labels_of(b) for b in batches])
    np.savez(job["batches"], allow_pickle=False, **arrays)
    supervised = (arrays["labels"] != IGNORED).sum((1, 2))
    assert (supervised == (arrays["loss_weights"] > 0).sum((1, 2))).all()
    job |= {
        "segments_per_row": plan.S,
        "examples": len(records),
        "useful": (arrays["segment_ids"] > 0).sum((1, 2)).tolist(),
        "supervised": supervised.tolist(),
    }
    path.write_text(json.dumps(job, indent=1), "utf-8")


if __name__ == "__main__":
    main()
