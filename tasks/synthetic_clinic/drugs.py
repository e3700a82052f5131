"""Medicines of the synthetic clinic: usual adult doses, what rules a medicine out, and what it does in plain words.

Written for teaching a language model the form of clinical text. It is no reference for treating anybody.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Drug:
    """One medicine.

    Attributes:
      name: as written in notes.
      unit: unit of every dose of `regimens`.
      regimens: the usual ones, (dose, frequency code of `wording.FREQUENCIES`).
      lay: completes "it ..." for a patient.
      allergy_class: an allergy of this class contraindicates the drug ("" if none does).
      caution: allergy classes with which the generator does not prescribe it either, without calling it a conflict.
      avoid: condition groups (`Condition.group`) in which the generator does not prescribe it.
      as_needed: how a medicine used as needed is described in plain words ("for pain").
    """

    name: str
    unit: str
    regimens: tuple[tuple[str, str], ...]
    lay: str
    allergy_class: str = ""
    caution: tuple[str, ...] = ()
    avoid: tuple[str, ...] = ()
    as_needed: str = ""


def _drug(name: str, unit: str, regimens: str, lay: str, **rules: object) -> Drug:
    """`regimens` in short: "5 qd, 10 qd" -> (("5", "qd"), ("10", "qd"))."""
    pairs = tuple(tuple(part.split()) for part in regimens.split(", "))
    return Drug(name=name, unit=unit, regimens=pairs, lay=lay, **rules)  # type: ignore[arg-type]


_NSAID_AVOID = (
    "kidney disease",
    "ulcer bleed",
    "heart failure",
    "pregnancy",
    "fibrillation",
    "coronary",
    "reflux",
    "clot",
    "asthma",
)
_BETA_AVOID = ("asthma", "copd", "anaphylaxis", "clot", "bleed")

_ALL = (
    # Heart, vessels, blood
    _drug(
        "lisinopril",
        "mg",
        "5 qd, 10 qd, 20 qd, 40 qd",
        "lowers blood pressure",
        allergy_class="ACE inhibitor",
        avoid=("pregnancy", "anaphylaxis"),
    ),
    _drug("losartan", "mg", "25 qd, 50 qd, 100 qd", "lowers blood pressure", avoid=("pregnancy", "anaphylaxis")),
    _drug(
        "amlodipine", "mg", "5 qd, 10 qd", "relaxes blood vessels and lowers blood pressure", avoid=("heart failure",)
    ),
    _drug(
        "metoprolol succinate", "mg", "25 qd, 50 qd, 100 qd", "slows the heart and eases its work", avoid=_BETA_AVOID
    ),
    _drug(
        "furosemide",
        "mg",
        "20 qd, 40 qd, 40 bid",
        "removes extra fluid",
        caution=("sulfonamide",),
        avoid=("pregnancy", "gout"),
    ),
    _drug("atorvastatin", "mg", "10 qd, 20 qd, 40 qhs, 80 qhs", "lowers cholesterol", avoid=("pregnancy",)),
    _drug(
        "aspirin",
        "mg",
        "81 qd",
        "helps to prevent blood clots",
        allergy_class="NSAID",
        avoid=("ulcer bleed", "bleed", "pregnancy", "fibrillation", "clot", "asthma"),
    ),
    _drug("clopidogrel", "mg", "75 qd", "helps to prevent blood clots", avoid=("ulcer bleed", "fibrillation", "clot")),
    _drug("nitroglycerin", "mg", "0.4 prn", "widens the blood vessels of the heart", as_needed="for chest pain"),
    _drug(
        "apixaban",
        "mg",
        "5 bid, 10 bid",
        "thins the blood to prevent clots",
        avoid=("ulcer bleed", "pregnancy"),
    ),
    # Diabetes, thyroid, bone
    _drug("metformin", "mg", "500 bid, 850 bid, 1000 bid", "lowers blood sugar", avoid=("kidney disease",)),
    _drug("glipizide", "mg", "5 qd, 10 qd", "lowers blood sugar", caution=("sulfonamide",), avoid=("pregnancy",)),
    _drug("insulin glargine", "units", "10 qhs, 14 qhs, 20 qhs", "lowers blood sugar"),
    _drug("levothyroxine", "mcg", "25 qd, 50 qd, 75 qd, 100 qd", "replaces thyroid hormone"),
    _drug("alendronate", "mg", "70 weekly", "strengthens bones", avoid=("reflux", "ulcer bleed", "kidney disease")),
    _drug("cholecalciferol", "units", "1000 qd, 2000 qd", "is vitamin D for healthy bones"),
    # Lungs, allergy
    _drug("albuterol inhaler", "puffs", "2 prn", "opens the airways", as_needed="for wheezing"),
    _drug("fluticasone inhaler", "mcg", "110 bid, 220 bid", "calms swelling in the airways"),
    _drug("tiotropium inhaler", "mcg", "18 qd", "keeps the airways open"),
    _drug("prednisone", "mg", "20 qd, 40 qd", "calms inflammation", avoid=("ulcer bleed",)),
    _drug("cetirizine", "mg", "10 qd", "eases allergy symptoms"),
    _drug("epinephrine injection", "mg", "0.3 once, 0.5 once", "reverses a severe allergic reaction"),
    # Infection
    _drug("amoxicillin", "mg", "500 tid, 875 bid", "treats bacterial infection", allergy_class="penicillin"),
    _drug("amoxicillin-clavulanate", "mg", "875 bid", "treats bacterial infection", allergy_class="penicillin"),
    _drug(
        "cephalexin",
        "mg",
        "500 qid",
        "treats bacterial infection",
        allergy_class="cephalosporin",
        caution=("penicillin",),
    ),
    _drug(
        "ceftriaxone",
        "g",
        "1 qd, 2 qd",
        "treats bacterial infection",
        allergy_class="cephalosporin",
        caution=("penicillin",),
    ),
    _drug("azithromycin", "mg", "250 qd, 500 qd", "treats bacterial infection", avoid=("fibrillation",)),
    _drug("doxycycline", "mg", "100 bid", "treats bacterial infection", avoid=("pregnancy",)),
    _drug("nitrofurantoin", "mg", "100 bid", "treats bladder infection", avoid=("kidney disease",)),
    _drug(
        "trimethoprim-sulfamethoxazole",
        "mg",
        "160/800 bid",
        "treats bacterial infection",
        allergy_class="sulfonamide",
        avoid=("pregnancy", "kidney disease"),
    ),
    _drug("ciprofloxacin", "mg", "500 bid", "treats bacterial infection", avoid=("pregnancy", "fibrillation")),
    _drug("oseltamivir", "mg", "75 bid", "shortens the flu"),
    # Pain, gout, migraine
    _drug("acetaminophen", "mg", "500 prn, 650 prn", "eases pain and fever", as_needed="for pain or fever"),
    _drug("ibuprofen", "mg", "400 tid, 600 tid", "eases pain and swelling", allergy_class="NSAID", avoid=_NSAID_AVOID),
    _drug("naproxen", "mg", "250 bid, 500 bid", "eases pain and swelling", allergy_class="NSAID", avoid=_NSAID_AVOID),
    _drug(
        "oxycodone",
        "mg",
        "5 prn",
        "eases strong pain",
        allergy_class="opioid",
        as_needed="for strong pain",
        avoid=("copd", "pregnancy", "asthma"),
    ),
    _drug("allopurinol", "mg", "100 qd, 300 qd", "lowers uric acid"),
    _drug("colchicine", "mg", "0.6 bid", "calms gout", avoid=("kidney disease",)),
    _drug(
        "sumatriptan",
        "mg",
        "50 prn, 100 prn",
        "stops a migraine attack",
        as_needed="for migraine",
        avoid=("coronary", "stroke", "pregnancy"),
    ),
    _drug(
        "propranolol", "mg", "40 bid", "helps to prevent migraine", avoid=(*_BETA_AVOID, "heart failure", "diabetes")
    ),
    # Gut, mood, urine, blood
    _drug("omeprazole", "mg", "20 qd, 40 qd", "lowers stomach acid"),
    _drug("famotidine", "mg", "20 bid", "lowers stomach acid"),
    _drug("ondansetron", "mg", "4 prn", "eases nausea", as_needed="for nausea"),
    _drug("polyethylene glycol", "g", "17 qd", "softens the stool"),
    _drug("sertraline", "mg", "50 qd, 100 qd", "helps with low mood and anxiety"),
    _drug("escitalopram", "mg", "10 qd, 20 qd", "helps with low mood and anxiety", avoid=("fibrillation",)),
    _drug("tamsulosin", "mg", "0.4 qhs", "helps urine to flow"),
    _drug("ferrous sulfate", "mg", "325 qd", "brings the iron level up"),
    _drug("prenatal vitamin", "tablet", "1 qd", "gives vitamins that a pregnancy needs"),
)

DRUGS: dict[str, Drug] = {drug.name: drug for drug in _ALL}

# What somebody without any diagnosis may well take.
GENERAL_DRUGS = ("cholecalciferol", "acetaminophen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Allergen:
    """`allergy_class` matches those of `Drug`, or is "contrast" (procedures), or "" for foods and the like."""

    name: str
    allergy_class: str
    reactions: tuple[str, ...]


ALLERGENS = (
    Allergen(name="penicillin", allergy_class="penicillin", reactions=("hives", "rash", "facial swelling")),
    Allergen(name="sulfa drugs", allergy_class="sulfonamide", reactions=("rash", "blistering rash", "itching")),
    Allergen(name="ibuprofen", allergy_class="NSAID", reactions=("wheezing", "hives")),
    Allergen(name="cephalexin", allergy_class="cephalosporin", reactions=("hives", "rash")),
    Allergen(name="lisinopril", allergy_class="ACE inhibitor", reactions=("lip swelling", "facial swelling")),
    Allergen(name="codeine", allergy_class="opioid", reactions=("itching", "hives")),
    Allergen(name="iodinated contrast", allergy_class="contrast", reactions=("hives", "wheezing")),
    Allergen(name="latex", allergy_class="", reactions=("skin rash", "itching")),
    Allergen(name="peanuts", allergy_class="", reactions=("lip swelling", "hives")),
    Allergen(name="shellfish", allergy_class="", reactions=("hives", "stomach cramps")),
    Allergen(name="bee stings", allergy_class="", reactions=("wheezing", "facial swelling")),
)


def conflicts(drug: Drug, allergen: Allergen) -> bool:
    """Whether prescribing `drug` to somebody allergic to `allergen` is the fault that conflict questions ask for."""
    return bool(drug.allergy_class) and drug.allergy_class == allergen.allergy_class


def allowed(drug: Drug, allergens: tuple[Allergen, ...], groups: tuple[str, ...]) -> bool:
    """Whether the generator may prescribe `drug`, given allergies and the groups of the patient's conditions."""
    classes = {allergen.allergy_class for allergen in allergens} - {""}
    if drug.allergy_class in classes or classes.intersection(drug.caution):
        return False
    return not set(drug.avoid).intersection(groups)
