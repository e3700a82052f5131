"""Allergies and medicines of a patient: within the usual doses, against no allergy and no known condition."""

from __future__ import annotations

import dataclasses
import random

from tasks.synthetic_clinic.conditions import Condition
from tasks.synthetic_clinic.drugs import ALLERGENS, DRUGS, GENERAL_DRUGS, Allergen, Drug, allowed

# An aspect (medicines, diagnoses, procedures, allergies) is there, or it is one of these in a fifth of the encounters.
FOUND = "found"
ABSENT = ("nothing", "negated", "family", "not_documented")

MAX_MEDICINES = 3  # three JSON entries stay well under 128 target tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Medication:
    drug: Drug
    dose: str
    frequency: str

    @property
    def amount(self) -> str:
        return f"{self.dose} {self.drug.unit}"


def choose_allergens(rng: random.Random, condition: Condition) -> tuple[tuple[Allergen, str], ...]:
    count = rng.choice((1, 1, 2))
    chosen: list[tuple[Allergen, str]] = []
    classes: set[str] = set()
    for allergen in rng.sample(ALLERGENS, len(ALLERGENS)):
        # Two entries of one class, or penicillin beside cephalosporin, would make questions ambiguous.
        family = {"cephalosporin": "penicillin"}.get(allergen.allergy_class, allergen.allergy_class) or allergen.name
        if len(chosen) < count and family not in classes:
            classes.add(family)
            chosen.append((allergen, rng.choice(allergen.reactions)))
    return tuple(chosen)


def _fill_slot(
    rng: random.Random, slot: str, allergens: tuple[Allergen, ...], groups: tuple[str, ...], taken: set[str]
) -> Medication | None:
    for option in slot.split(","):
        name, _, regimen = option.partition("@")
        drug = DRUGS[name]
        same_kind = taken & _SAME_KIND.get(name, {name})
        if not same_kind and allowed(drug, allergens, groups):
            dose, frequency = tuple(regimen.split()) if regimen else rng.choice(drug.regimens)
            taken.add(name)
            return Medication(drug=drug, dose=dose, frequency=frequency)
    return None


# Never two of one kind, nor two that should not meet (clot prevention, anti-inflammatories).
_KINDS = (
    {"lisinopril", "losartan"},
    {"ibuprofen", "naproxen", "aspirin"},
    {"omeprazole", "famotidine"},
    {"sertraline", "escitalopram"},
    {"aspirin", "clopidogrel", "apixaban", "ibuprofen", "naproxen"},
    {"metoprolol succinate", "propranolol"},
    {"ferrous sulfate", "prenatal vitamin"},
    {"metformin", "glipizide"},
    {"sertraline", "escitalopram", "sumatriptan"},
    # Fluoroquinolones and azithromycin, ondansetron, escitalopram lengthen the QT interval together.
    {"ciprofloxacin", "azithromycin", "ondansetron", "escitalopram"},
    {"lisinopril", "losartan", "trimethoprim-sulfamethoxazole"},
    {"atorvastatin", "colchicine"},
    {"ibuprofen", "naproxen", "lisinopril", "losartan", "furosemide"},
    {"ibuprofen", "naproxen", "sertraline", "escitalopram"},
    {"prednisone", "ibuprofen", "naproxen"},
    {"clopidogrel", "omeprazole"},
)
_SAME_KIND = {name: set().union({name}, *(kind for kind in _KINDS if name in kind)) for name in DRUGS}


def choose_medicines(
    rng: random.Random,
    condition: Condition,
    known: tuple[Condition, ...],
    allergens: tuple[Allergen, ...],
    groups: tuple[str, ...],
    statuses: dict[str, str],
) -> tuple[tuple[Medication, ...], tuple[Medication, ...]]:
    """Medicines taken already and started now, within the usual doses; none against an allergy or a known condition."""
    if statuses["medicine"] != FOUND:
        return (), ()
    taken: set[str] = set()
    started: list[Medication] = []
    home: list[Medication] = []
    own_home = list(condition.home)
    home_slots = [*own_home, *(c.home[0] for c in known if c.home)]
    treat_slots = condition.treat
    # Follow-up of a chronic illness: what is taken goes before what may be added.
    if condition.chronic:
        for slot in own_home:
            if medication := _fill_slot(rng, slot, allergens, groups, taken):
                home.append(medication)
        home_slots = home_slots[len(own_home) :]
        treat_slots = treat_slots[:1] if rng.random() < 0.6 or not home else ()
    for slot in treat_slots:
        if len(home) + len(started) < MAX_MEDICINES and (m := _fill_slot(rng, slot, allergens, groups, taken)):
            started.append(m)
    for slot in home_slots:
        if len(home) + len(started) < MAX_MEDICINES and (m := _fill_slot(rng, slot, allergens, groups, taken)):
            home.append(m)
    if not home and not started:
        home.append(_fill_slot(rng, rng.choice(GENERAL_DRUGS), allergens, groups, taken))  # type: ignore[arg-type]
    return tuple(home), tuple(started)


def choose_stopped(
    rng: random.Random, medicines: tuple[Medication, ...], groups: tuple[str, ...], statuses: dict[str, str]
) -> Drug | None:
    """A medicine of the past, never one that is taken now."""
    if statuses["medicine"] not in (FOUND, "negated") or (statuses["medicine"] == FOUND and rng.random() < 0.6):
        return None
    current = {m.drug.name for m in medicines}
    candidates = ["cetirizine", "famotidine", "naproxen", "amlodipine", "cholecalciferol", "polyethylene glycol"]
    fitting = [n for n in candidates if n not in current and not set(DRUGS[n].avoid) & set(groups)]
    return DRUGS[rng.choice(fitting)] if fitting else None
