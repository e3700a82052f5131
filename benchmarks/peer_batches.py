"""A peer's batches as ours: python benchmarks/peer_batches.py JOB.json, from job["peer_batches"] to job["batches"].

The peer says for each token its label, position and segment (0 is padding). Examples are laid into rows of
job["length"] in their order, and the fields of `itune.batch.Batch` made of them: the same tokens, the same
predictions, one task.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

IGNORED = -100
LADDER = 16  # supervised positions a row are rounded up to a multiple of it


def examples(batch: dict[str, np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """(tokens, labels) of every segment of a batch, in order."""
    found = []
    for tokens, labels, segments in zip(batch["tokens"], batch["labels"], batch["segment_ids"], strict=True):
        for segment in range(1, int(segments.max(initial=0)) + 1):
            at = segments == segment
            found.append((tokens[at], labels[at]))
    return found


def rows(parts: list[tuple[np.ndarray, np.ndarray]], length: int) -> list[list[tuple[np.ndarray, np.ndarray]]]:
    """In order, as few rows as that allows."""
    found: list[list[tuple[np.ndarray, np.ndarray]]] = [[]]
    for part in parts:
        if sum(len(tokens) for tokens, _ in found[-1]) + len(part[0]) > length:
            found.append([])
        found[-1].append(part)
    return found


def convert(peer: dict[str, np.ndarray], length: int, batch_size: int) -> tuple[dict[str, np.ndarray], int]:
    """(our arrays, each [batches, rows, ...]; segments a row). Raises ValueError if a batch does not fit."""
    packed = []
    for n in range(len(peer["tokens"])):
        found = rows(examples({name: array[n] for name, array in peer.items()}), length)
        if len(found) > batch_size:
            raise ValueError(f"batch {n} needs {len(found)} rows of {length}, and the step has {batch_size}")
        packed.append(found + [[] for _ in range(batch_size - len(found))])
    supervised = [sum(int((labels != IGNORED).sum()) for _, labels in row) for batch in packed for row in batch]
    width = max(-(-max(supervised) // LADDER) * LADDER, LADDER)
    shape = (len(packed), batch_size)
    out = {name: np.zeros((*shape, length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    out |= {name: np.zeros((*shape, width), np.int32) for name in ("loss_index", "loss_targets", "loss_task")}
    out["loss_weights"] = np.zeros((*shape, width), np.float32)
    out["row_ids"] = np.zeros((*shape, 2), np.int32)
    for n, batch in enumerate(packed):
        for r, row in enumerate(batch):
            out["row_ids"][n, r] = (0, n * batch_size + r)
            _fill_row({name: array[n, r] for name, array in out.items()}, row)
    return out, max(len(row) for batch in packed for row in batch)


def _fill_row(out: dict[str, np.ndarray], row: list[tuple[np.ndarray, np.ndarray]]) -> None:
    start = used = 0
    for number, (tokens, labels) in enumerate(row, 1):
        here = slice(start, start + len(tokens))
        out["tokens"][here], out["segment_ids"][here] = tokens, number
        out["positions"][here] = np.arange(len(tokens))
        predicted = np.flatnonzero(
            labels[1:] != IGNORED
        )  # the label of a token is predicted where the one before stands
        there = slice(used, used + len(predicted))
        out["loss_index"][there], out["loss_targets"][there] = start + predicted, labels[1:][predicted]
        out["loss_weights"][there] = 1.0
        start, used = start + len(tokens), used + len(predicted)


def main() -> None:
    path = Path(sys.argv[1])
    job = json.loads(path.read_text("utf-8"))
    with np.load(job["peer_batches"]) as arrays:
        found, segments = convert(dict(arrays), job["length"], job["batch"])
    np.savez(job["batches"], allow_pickle=False, **found)
    job |= {
        "segments_per_row": segments,
        "useful": (found["segment_ids"] > 0).sum((1, 2)).tolist(),
        "supervised": (found["loss_weights"] > 0).sum((1, 2)).tolist(),
    }
    path.write_text(json.dumps(job, indent=1), "utf-8")


if __name__ == "__main__":
    main()
