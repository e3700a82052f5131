"""The mixtures. What a held-out mixture holds is in no training mixture: whole clusters, not rows.

quickstart, quickstart_held_out      synthetic clinical tasks, nothing to download
real_data, real_data_held_out        public data sets under $ITUNE_DATA_DIR (tasks/formats.py)
clinic, clinic_held_out              the synthetic clinic and public clinical sets (tasks/clinic_public.py)
"""

from __future__ import annotations

import os

from itune.data import add_mixture, mark_unavailable, rate_by_examples
from tasks import clinic, clinic_public, formats

# One judges, one writes: a classification cluster alone would say little about generation, and the other way round.
HELD_OUT_T0_CLUSTERS = ("paraphrase", "structure_to_text")

# Examples-proportional up to a cap, so that 7,473 sums do not drown 40 questions, nor the reverse.
T0_CAP = 800
OTHER_CAP = 2000
CLINICAL_CAP = 1000

# Reading a note for an answer, and naming a disease: neither is what any other clinical task asks for. Questions about
# abstracts stay in training, so what is held out of the questions is the note.
HELD_OUT_CLINICAL = (*clinic.HELD_OUT_TASKS, "avey/diagnosis")

add_mixture("quickstart", clinic.TRAIN_TASKS)
add_mixture("quickstart_held_out", clinic.HELD_OUT_TASKS)


def register_real_data() -> None:
    """Registers real_data and real_data_held_out; the tasks of tasks/formats.py must be there. Rates are read later."""
    train = [
        task for cluster, tasks in formats.T0_TASKS.items() if cluster not in HELD_OUT_T0_CLUSTERS for task in tasks
    ]
    held_out = [task for cluster in HELD_OUT_T0_CLUSTERS for task in formats.T0_TASKS[cluster]]
    rated = [(task, rate_by_examples(T0_CAP)) for task in train]
    rated += [(task, rate_by_examples(OTHER_CAP)) for task in formats.OTHER_TASKS]
    add_mixture("real_data", rated)
    add_mixture("real_data_held_out", held_out)


def register_clinic(public: tuple[str, ...]) -> None:
    """Registers clinic and clinic_held_out: the synthetic clinic, PubMedQA and the `public` tasks that are there."""
    pubmedqa = [task for task in formats.OTHER_TASKS if task.startswith("pubmedqa/")]
    every = [*clinic.TRAIN_TASKS, *clinic_public.SYNTHETIC_TASKS, *pubmedqa, *public]
    train = [task for task in every if task not in HELD_OUT_CLINICAL]
    add_mixture("clinic", [(task, rate_by_examples(CLINICAL_CAP)) for task in train])
    add_mixture("clinic_held_out", HELD_OUT_CLINICAL)


if os.environ.get(formats.DATA_DIR_VARIABLE):
    register_real_data()
    register_clinic(clinic_public.FILE_TASK_NAMES)
else:
    for _mixture in ("real_data", "real_data_held_out", "clinic", "clinic_held_out"):
        mark_unavailable(_mixture, formats.UNSET)
