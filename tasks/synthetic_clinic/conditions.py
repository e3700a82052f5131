"""Conditions of the synthetic clinic: who has them, how they show, what is done, and what they are in plain words.

Names are "canonical|only in train|only in validation"; symptoms and findings are "train|validation". Written by us for
teaching a language model the form of clinical text; it is no medical reference.
"""

from __future__ import annotations

from tasks.synthetic_clinic.acute import ACUTE
from tasks.synthetic_clinic.chronic import CHRONIC
from tasks.synthetic_clinic.complaints import OPEN_COMPLAINTS
from tasks.synthetic_clinic.condition import Condition

__all__ = ["CONDITIONS", "FAMILY_ILLNESSES", "OPEN_COMPLAINTS", "RED_FLAGS", "Condition"]

# key: (canonical as the printed rule has it, train wording, validation wording).
RED_FLAGS = {
    "chest": "chest pain with sweating|chest pain with sweating|chest pressure with heavy sweating",
    "stroke": "new weakness of one side|new one-sided weakness|sudden weakness of one side of the body",
    "throat": "throat swelling|throat swelling|swelling inside the throat",
    "blood": "vomiting blood|vomiting of blood|blood in the vomit",
    "faint": "fainting|fainting|a blackout with a fall",
}

CONDITIONS: dict[str, Condition] = {condition.key: condition for condition in (*CHRONIC, *ACUTE)}

# Illnesses of relatives: (group, names). Cancer is nobody's but a relative's here.
FAMILY_ILLNESSES = (
    ("diabetes", CONDITIONS["diabetes"].names),
    ("pressure", CONDITIONS["hypertension"].names),
    ("thyroid", CONDITIONS["hypothyroidism"].names),
    ("gout", CONDITIONS["gout"].names),
    ("migraine", CONDITIONS["migraine"].names),
    ("cancer", "colon cancer|cancer of the colon|bowel cancer"),
    ("cancer", "breast cancer|cancer of the breast|breast carcinoma"),
    ("dementia", "Alzheimer disease|Alzheimer dementia|dementia of Alzheimer type"),
)
