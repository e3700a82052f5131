"""A new data set of one's own: a commented declaration that works as it is, sample rows, and its rendered prompts."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itune.data.catalogue import import_modules, load_registry
from itune.errors import UserError

_NAME = re.compile(r"[a-z][a-z0-9_]*")
FOLDER, CLUSTER = "tasks/library", "my_cluster"

DECLARATION = """\
# {name}: say here what the data set is and who made it. Every key is described in docs/tasks.md.
# Look at it with   python -m itune.tasks show {shown}
# and check it with python -m itune.tasks check {shown}
name: {name}
cluster: {cluster}      # the kind of task: whole clusters are held out of training together (the folder's name too)
description: whether a message asks for an appointment
citation: ""
licence: unknown        # SPDX's name, "MIT", "CC-BY-4.0"; DataConfig.allowed_licences goes by it
identity: {name}        # the data set's name: tasks that share rows share it; EvalConfig.held_out_sources goes by it

# Where the rows are, from this file's folder: JSON lines, JSON, CSV, TSV, Parquet or Arrow, packed (.gz, .zst) or not.
# Instead: `hf: {{path: ORG/NAME, config: NAME}}` and `splits:` for one of the hub's.
files: {{train: {name}.train.jsonl, validation: {name}.validation.jsonl}}

# All columns of the files: string, int, float, bool, a list of class names where the rows have their numbers, or a
# nested one in words ("{{text: list(string)}}"). A row that lacks one stops the build, with its file and line.
columns:
  about: string
  message: string
  label: ["no", "yes"]  # quoted: YAML takes no, yes, on, off and numbers for something else

# Other names for templates to use, each with the way to it in the row: `topic: meta.topic`, `first: answers.text.0`.
fields: {{}}

answer: label           # the way to the answer: a text, or a class, or an index into options of the row's own
options: {{"no": "no", "yes": "yes"}}   # class -> words; or a list of columns; leave it out where answers are free text
# rationale: reasoning  # the way to worked reasoning, where there is some: gives the variants zs_cot and fs_cot
metrics: [accuracy]     # also exact_match, token_f1, rouge_l, json_field_f1, final_number, bleu, chrf, macro_f1
overlong: drop          # or truncate_inputs, where a question that is cut can still be answered

# Each row is put in one of these wordings, chosen by its key. Seven or more that differ in more than a word are usual.
# Options are put behind the text in many styles where the variant shows them (zs_opt, fs_opt), exemplars before it
# (fs, fs_opt); neither belongs into a wording. Double a brace that is meant as one.
templates:
  - id: asks            # stable: it names the wording in prepared data and reports
    inputs: |-
      {{message}}

      Does this message ask for an appointment? Answer yes or no.
  - id: front_desk
    inputs: |-
      You sort messages at the front desk of a practice. Message: "{{message}}"
      Is an appointment asked for (yes or no)?
  - id: true_or_false   # other words for the classes, in this wording alone
    inputs: |-
      The writer of this message wants an appointment. True or false?
      {{message}}
    options: {{"no": "false", "yes": "true"}}
  - id: choose          # only: opt is for wordings that make no sense without the options, noopt the other way round
    inputs: |-
      Message: {{message}}
      Is an appointment asked for? Choose:
      {{options}}
    only: opt

# The other way round: an input is asked for, and the answer is given (variants inv, fs_inv).
inversions:
  - id: write_message
    inputs: |-
      Write a patient's message to a practice, about {{about}}. Does it ask for an appointment? {{answer}}.
    targets: "{{message}}"
"""

ROWS: dict[str, list[dict[str, Any]]] = {
    "train": [
        {"about": "a sore knee", "message": "Could I see Dr. Reyes on Thursday afternoon about my knee?", "label": 1},
        {
            "about": "a blood test",
            "message": "Please send the results of last week's blood test to my new address.",
            "label": 0,
        },
        {
            "about": "a son's earache",
            "message": "My son has had an earache since Sunday. Is there a slot today?",
            "label": 1,
        },
        {
            "about": "an inhaler",
            "message": "The pharmacy says my prescription for the inhaler has run out.",
            "label": 0,
        },
        {
            "about": "a yearly check-up",
            "message": "I would like to bring my yearly check-up forward to May.",
            "label": 1,
        },
        {"about": "a rash", "message": "Thank you for fitting me in yesterday, the rash is much better.", "label": 0},
    ],
    "validation": [
        {"about": "a flu shot", "message": "When is the next free date for a flu shot?", "label": 1},
        {"about": "a new address", "message": "I have moved; my insurance card is attached.", "label": 0},
    ],
}


def new_task(modules: Sequence[str], name: str, cluster: str, folder: str) -> int:
    """Writes FOLDER/CLUSTER/NAME.yaml, rows and rendered prompts beside it. Raises: UserError; nothing is replaced."""
    import_modules(modules)
    from itune.data import lazy

    for what, text in (("NAME", name), ("--cluster", cluster or CLUSTER)):
        if not _NAME.fullmatch(text):
            raise UserError(f"{what}={text!r}: must be small letters, digits and _, a letter first")
    if any(known.partition("/")[0] == name for known in lazy.pending()):
        raise UserError(f"{name}: there is a task of this name; python -m itune.tasks show {name}")
    home = Path(folder or FOLDER) / (cluster or CLUSTER)
    path = home / f"{name}.yaml"
    rows = {split: home / f"{name}.{split}.jsonl" for split in ROWS}
    for target in (path, *rows.values()):
        if target.exists():
            raise UserError(f"{target}: is there already; nothing was written")
    home.mkdir(parents=True, exist_ok=True)
    shown = name if Path(folder or FOLDER) == Path(FOLDER) else str(path)
    path.write_text(DECLARATION.format(name=name, cluster=cluster or CLUSTER, shown=shown), "utf-8")
    for split, target in rows.items():
        target.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS[split]), "utf-8")
    load_registry()
    golden = write_golden(path)
    print(f"{path}: the declaration, with a comment on each key; put your own into it")
    print(f"{', '.join(map(str, rows.values()))}: sample rows; put yours there, or name others under `files:`")
    print(f"{golden}: the prompts as they are rendered now; `check --write_golden` writes them again")
    print(f"next: python -m itune.tasks check {shown}")
    if shown != name:
        provide = f"itune.data.provide_library({str(Path(folder))!r})"
        print(f"to train on it: a module with `{provide}` in MIXTURE_OR_TASK_MODULE")
    return 0


def write_golden(path: Path) -> Path:
    """Declares the file if nothing has, and writes its rendered prompts beside it. Raises: UserError."""
    from itune.data.library import golden
    from itune.data.library.tasks import declare  # SeqIO loads here
    from itune.data.registry import TASKS

    if not any(name.startswith(f"{path.stem}/") for name in TASKS):
        declare(path)
    target = golden.beside(path)
    target.write_text(golden.as_text(golden.golden(path)), "utf-8")
    return target
