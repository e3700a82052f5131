"""One synthetic encounter: invented patient, facts, safety rules and the urgency rule. Facts only; wording comes later.

Everything is a pure function of the encounter's number: `random.Random` is seeded with text (SHA-512), so neither
PYTHONHASHSEED nor the order of calls matters. Numbers decide the split, so that raising NUM_ENCOUNTERS moves nobody.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Sequence

from tasks.synthetic_clinic.conditions import (
    CONDITIONS,
    FAMILY_ILLNESSES,
    OPEN_COMPLAINTS,
    RED_FLAGS,
    Condition,
)
from tasks.synthetic_clinic.drugs import DRUGS, Allergen, Drug
from tasks.synthetic_clinic.prescribing import (
    ABSENT,
    FOUND,
    Medication,
    choose_allergens,
    choose_medicines,
    choose_stopped,
)
from tasks.synthetic_clinic.procedures import COMMON_TESTS, PROCEDURES, Procedure

NUM_ENCOUNTERS = 1350
_VALIDATION_EVERY, _VALIDATION_REST = 9, 4  # one number in nine: 150 of 1,350

ROUTINE, URGENT, EMERGENT, NO_VITALS = "routine", "urgent", "emergent", "not documented"
URGENCY_LABELS = (EMERGENT, URGENT, ROUTINE, NO_VITALS)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Vitals:
    """Degrees Celsius; beats and breaths a minute; mmHg; per cent."""

    temp: float
    hr: int
    rr: int
    spo2: int
    sbp: int
    dbp: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Relative:
    who: str
    illness: str
    group: str
    drug: Drug
    test: Procedure


@dataclasses.dataclass(frozen=True, kw_only=True)
class Encounter:
    """The facts. `*_status` are FOUND or one of ABSENT; `excluded` were looked for and not found."""

    id: str
    split: str
    initials: str
    age: int
    sex: str
    level: str
    urgency: str
    condition: Condition
    known: tuple[Condition, ...]
    diagnosis_status: str
    home: tuple[Medication, ...]
    started: tuple[Medication, ...]
    stopped: Drug | None
    medicine_status: str
    allergens: tuple[tuple[Allergen, str], ...]
    allergy_status: str
    done: tuple[Procedure, ...]
    planned: tuple[Procedure, ...]
    declined: Procedure | None
    procedure_status: str
    relative: Relative
    show_relative: bool
    excluded: tuple[Condition, ...]
    vitals: Vitals | None
    red_flag: str
    denied_flag: str
    days: int
    stay_days: int
    follow_up_days: int
    smoking: str

    @property
    def to_hospital(self) -> bool:
        """Whether a visit ends in hospital and not with a date for the next one."""
        return self.level == "E" or self.condition.hospital

    @property
    def groups(self) -> tuple[str, ...]:
        return (self.condition.group, *(c.group for c in self.known))


def split_of(number: int) -> str:
    return "validation" if number % _VALIDATION_EVERY == _VALIDATION_REST else "train"


def numbers(split: str, count: int = NUM_ENCOUNTERS) -> list[int]:
    return [number for number in range(count) if split_of(number) == split]


def position(number: int) -> int:
    """Place of an encounter within its split; blocks of neighbours are dealt evenly among strata."""
    before = (number + _VALIDATION_EVERY - 1 - _VALIDATION_REST) // _VALIDATION_EVERY  # of validation, below number
    return before if split_of(number) == "validation" else number - before


@functools.lru_cache(maxsize=4096)
def _dealt(split: str, aspect: str, block: int, values: tuple[str, ...]) -> tuple[str, ...]:
    order = list(values)
    random.Random(f"{split}/{aspect}/{block}").shuffle(order)
    return tuple(order)


def stratum(number: int, aspect: str, values: Sequence[str]) -> str:
    """One of `values`, so that each block of len(values) neighbouring encounters of a split gets each value once."""
    block, place = divmod(position(number), len(values))
    return _dealt(split_of(number), aspect, block, tuple(values))[place]


def status(number: int, aspect: str) -> str:
    """FOUND for four in five, otherwise the kinds of ABSENT in turn: exact in every 20 neighbours."""
    return stratum(number, aspect, (FOUND,) * 16 + ABSENT)


def urgency_by_rule(vitals: Vitals | None, red_flag: bool) -> str:
    """The rule that `wording.URGENCY_RULES` prints."""
    if red_flag:
        return EMERGENT
    if vitals is None:
        return NO_VITALS
    if vitals.sbp < 90 or vitals.hr > 130 or vitals.rr >= 30 or vitals.spo2 < 90:
        return EMERGENT
    if vitals.temp >= 38.5 or vitals.hr > 110 or vitals.rr > 22 or vitals.spo2 < 94 or vitals.sbp >= 180:
        return URGENT
    return ROUTINE


@functools.lru_cache(maxsize=4096)
def make_encounter(number: int) -> Encounter:
    rng = random.Random(f"encounter/{number}")
    # A fifth without vital signs; the rest evenly emergent, urgent, routine.
    urgency = stratum(number, "urgency", (NO_VITALS,) * 3 + (EMERGENT,) * 4 + (URGENT,) * 4 + (ROUTINE,) * 4)
    level = {EMERGENT: "E", URGENT: "U", ROUTINE: "R"}.get(urgency) or rng.choice("RRU")
    statuses = {aspect: status(number, aspect) for aspect in ("diagnosis", "medicine", "procedure", "allergy")}
    condition = _choose_condition(rng, level, statuses)
    sex = rng.choice(condition.sexes)
    age = rng.randint(*condition.ages)
    known = _choose_known(rng, condition, age, sex) if statuses["diagnosis"] == FOUND else ()
    excluded = _choose_excluded(rng, condition, known, age, statuses["diagnosis"])
    groups = (condition.group, *(c.group for c in known))
    allergens = choose_allergens(rng, condition) if statuses["allergy"] == FOUND else ()
    home, started = choose_medicines(rng, condition, known, tuple(a for a, _ in allergens), groups, statuses)
    done, planned, declined = _choose_procedures(rng, condition, tuple(a for a, _ in allergens), statuses["procedure"])
    red_flag, denied_flag = _choose_flags(rng, condition, level, urgency)
    vitals = None if urgency == NO_VITALS else _make_vitals(rng, condition, level, by_flag=bool(red_flag))
    # A red flag decides even where nobody wrote vital signs down.
    if red_flag and rng.random() < 0.1:
        vitals = None
    return Encounter(
        id=f"enc-{number:06d}",
        split=split_of(number),
        initials=_initials(rng),
        age=age,
        sex=sex,
        level=level,
        urgency=urgency,
        condition=condition,
        known=known,
        diagnosis_status=statuses["diagnosis"],
        home=home,
        started=started,
        stopped=choose_stopped(rng, home + started, groups, statuses),
        medicine_status=statuses["medicine"],
        allergens=allergens,
        allergy_status=statuses["allergy"],
        done=done,
        planned=planned,
        declined=declined,
        procedure_status=statuses["procedure"],
        relative=_choose_relative(rng, groups, excluded, home + started, done + planned),
        show_relative=rng.random() < 0.35,
        excluded=excluded,
        vitals=vitals,
        red_flag=red_flag,
        denied_flag=denied_flag,
        days=_choose_days(rng, condition, level),
        stay_days=rng.randint(2, 6),
        follow_up_days=_choose_follow_up(rng, condition, level),
        smoking=rng.choice(("never", "former", "current", "", "")),
    )


def _initials(rng: random.Random) -> str:
    return "".join(f"{rng.choice('ABCDEFGHJKLMNPRSTVWZ')}." for _ in range(2))


def _choose_condition(rng: random.Random, level: str, statuses: dict[str, str]) -> Condition:
    """A condition that can present at `level` and can go without what this encounter lacks."""
    pool = tuple(CONDITIONS.values()) if statuses["diagnosis"] == FOUND else OPEN_COMPLAINTS
    if statuses["diagnosis"] == "negated":
        pool = tuple(c for c in pool if c.excluded)
    tests: list[Callable[[Condition], bool]] = [lambda c: level in c.levels]
    if statuses["medicine"] in ABSENT[:3]:
        tests.append(lambda c: c.drugless)
    if statuses["procedure"] in ABSENT[:3]:
        tests.append(lambda c: c.testless)
    if statuses["procedure"] == FOUND:
        tests.append(lambda c: bool(c.tests or c.plans))
    for number_of_tests in range(len(tests), 0, -1):
        fitting = [c for c in pool if all(test(c) for test in tests[:number_of_tests])]
        if fitting:
            return rng.choice(fitting)
    raise AssertionError(f"no condition presents at level {level!r}")


def _choose_known(rng: random.Random, condition: Condition, age: int, sex: str) -> tuple[Condition, ...]:
    """Up to two chronic conditions beside the presenting one."""
    if condition.key == "pregnancy":
        return ()
    fitting = [
        c
        for c in CONDITIONS.values()
        if c.chronic
        and c.group != condition.group
        and c.ages[0] <= age <= c.ages[1]
        and sex in c.sexes
        and not (condition.group in ("asthma", "copd") and c.group in ("asthma", "copd"))
    ]
    wanted = rng.choice((0, 1, 1, 2)) if age >= 35 else rng.choice((0, 0, 1))
    chosen: list[Condition] = []
    for candidate in rng.sample(fitting, len(fitting)):
        clash = {c.group for c in chosen} | {"asthma"} if candidate.group == "copd" else {c.group for c in chosen}
        if (
            len(chosen) < wanted
            and candidate.group not in clash
            and not {"asthma", "copd"} <= clash | {candidate.group}
        ):
            chosen.append(candidate)
    return tuple(chosen)


def _choose_excluded(
    rng: random.Random, condition: Condition, known: tuple[Condition, ...], age: int, diagnosis_status: str
) -> tuple[Condition, ...]:
    if diagnosis_status == "negated":
        return (CONDITIONS[rng.choice(condition.excluded)],)
    groups = {condition.group, *(c.group for c in known)}
    look_alikes = _LOOK_ALIKES.get(condition.key, ())
    fitting = [CONDITIONS[key] for key in look_alikes if CONDITIONS[key].group not in groups]
    return (rng.choice(fitting),) if fitting and rng.random() < 0.5 else ()


_LOOK_ALIKES = {
    "cold": ("influenza", "pneumonia"),
    "influenza": ("pneumonia",),
    "pneumonia": ("embolism", "influenza"),
    "asthma_attack": ("pneumonia",),
    "copd_attack": ("pneumonia", "heart_failure"),
    "heart_failure": ("pneumonia", "nstemi"),
    "nstemi": ("embolism",),
    "embolism": ("nstemi", "pneumonia"),
    "appendicitis": ("stone",),
    "gallbladder": ("stone",),
    "pyelonephritis": ("appendicitis", "stone"),
    "stone": ("appendicitis",),
    "cellulitis": ("gout",),
    "gout": ("cellulitis",),
    "anemia": ("hypothyroidism",),
    "hypothyroidism": ("anemia",),
    "depression": ("hypothyroidism", "anemia"),
    "afib": ("nstemi",),
    "migraine": ("stroke",),
    "cystitis": ("stone",),
    "back": ("stone",),
    "rhinitis": ("asthma",),
}


def _choose_procedures(
    rng: random.Random, condition: Condition, allergens: tuple[Allergen, ...], procedure_status: str
) -> tuple[tuple[Procedure, ...], tuple[Procedure, ...], Procedure | None]:
    contrast = any(a.allergy_class == "contrast" for a in allergens)
    tests = [PROCEDURES[k] for k in condition.tests if not (contrast and PROCEDURES[k].contrast)]
    plans = [PROCEDURES[k] for k in condition.plans if not (contrast and PROCEDURES[k].contrast)]
    used = {*condition.tests, *condition.plans}
    other = [PROCEDURES[k] for k in COMMON_TESTS if k not in used]
    declined = rng.choice(other) if procedure_status == "negated" or rng.random() < 0.2 else None
    if procedure_status != FOUND:
        return (), (), declined if procedure_status == "negated" else None
    done = tuple(tests[: rng.choice((1, 2))])
    planned = tuple(p for p in plans if p not in done)[:1] if rng.random() < 0.6 or not done else ()
    if not done and not planned:
        planned = (PROCEDURES["cbc"],)
    return done, planned, declined


def _choose_relative(
    rng: random.Random,
    groups: tuple[str, ...],
    excluded: tuple[Condition, ...],
    medicines: tuple[Medication, ...],
    procedures: tuple[Procedure, ...],
) -> Relative:
    """A relative whose illness, medicine and test are none of the patient's."""
    taken = {m.drug.name for m in medicines}
    not_his = (*groups, *(c.group for c in excluded))
    group, illness = rng.choice([(g, names) for g, names in FAMILY_ILLNESSES if g not in not_his])
    drug = rng.choice([n for n in ("metformin", "allopurinol", "levothyroxine", "losartan") if n not in taken])
    test = rng.choice([PROCEDURES[k] for k in COMMON_TESTS if PROCEDURES[k] not in procedures])
    # The other sex's cancers are rare enough to leave out.
    who = rng.choice(("mother", "sister") if "breast" in illness else ("mother", "father", "brother", "sister"))
    return Relative(who=who, illness=illness, group=group, drug=DRUGS[drug], test=test)


def _choose_flags(rng: random.Random, condition: Condition, level: str, urgency: str) -> tuple[str, str]:
    """(red flag shown, red flag denied): keys of RED_FLAGS or ""."""
    shown = ""
    if level == "E" and condition.flag and (condition.flag_always or not condition.critical or rng.random() < 0.3):
        shown = condition.flag
    others = [key for key in RED_FLAGS if key not in (shown, condition.flag)]
    return shown, rng.choice(others) if rng.random() < 0.5 else ""


def _choose_days(rng: random.Random, condition: Condition, level: str) -> int:
    if level == "E":
        return 1 if condition.flag else rng.randint(1, 4)
    return rng.choice((14, 21, 28, 42)) if condition.chronic and level == "R" else rng.randint(2, 6)


def _choose_follow_up(rng: random.Random, condition: Condition, level: str) -> int:
    if level != "R":
        return rng.choice((2, 3, 7))
    return rng.choice((28, 42, 84)) if condition.chronic or condition.well else rng.choice((7, 14))


def _make_vitals(rng: random.Random, condition: Condition, level: str, *, by_flag: bool) -> Vitals:
    """Vital signs in the normal range except for what `level` and the condition ask for."""
    signs = {
        "temp": round(rng.uniform(36.4, 37.4), 1),
        "hr": rng.randint(60, 98),
        "rr": rng.randint(12, 19),
        "spo2": rng.randint(95, 99),
        "sbp": rng.randint(108, 148),
    }
    if condition.key == "hypertension":
        signs["sbp"] = rng.randint(146, 172)
    feverish = any("fever" in symptom for symptom in condition.symptoms)
    if feverish:
        signs["temp"] = round(rng.uniform(37.8, 38.4), 1)
        signs["hr"] = rng.randint(84, 106)
    wanted: list[str] = []
    if level == "U":
        options = condition.urgent.split() or ["hr"]
        wanted = rng.sample(options, min(len(options), rng.choice((1, 1, 2))))
        bands = {"temp": (385, 396), "hr": (111, 128), "rr": (23, 28), "spo2": (90, 93), "sbp": (180, 204)}
    elif level == "E" and (not by_flag or (condition.critical and rng.random() < 0.5)):
        options = condition.critical.split() or ["hr"]
        wanted = rng.sample(options, min(len(options), rng.choice((1, 1, 2))))
        bands = {"hr": (132, 148), "rr": (30, 36), "spo2": (82, 89), "sbp": (76, 88)}
    for sign in wanted:
        signs[sign] = rng.randint(*bands[sign]) / (10 if sign == "temp" else 1)
    _make_coherent(rng, signs)
    sbp = int(signs["sbp"])
    return Vitals(
        temp=float(signs["temp"]),
        hr=int(signs["hr"]),
        rr=int(signs["rr"]),
        spo2=int(signs["spo2"]),
        sbp=sbp,
        dbp=round(sbp * rng.uniform(0.56, 0.64)),
    )


def _make_coherent(rng: random.Random, signs: dict[str, float]) -> None:
    """In fever, shock or want of oxygen the heart is fast, and so is the breath; never across another threshold."""
    if signs["temp"] >= 38.5 or signs["rr"] > 22:
        signs["hr"] = max(signs["hr"], rng.randint(88, 108))
    if signs["rr"] >= 30:
        signs["hr"] = max(signs["hr"], rng.randint(104, 124))
        signs["spo2"] = min(signs["spo2"], rng.randint(91, 94))
    if signs["sbp"] < 90:
        signs["hr"] = max(signs["hr"], rng.randint(108, 126))
    if signs["spo2"] < 90:
        signs["rr"] = max(signs["rr"], rng.randint(24, 29))
        signs["hr"] = max(signs["hr"], rng.randint(100, 120))
