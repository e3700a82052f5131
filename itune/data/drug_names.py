"""Names of common medicines, and which of them are one: to find them in text, not to advise on any.

Generic names, with brand names and abbreviations that notes and patients use. What is not here is not seen.
"""

from __future__ import annotations

import functools
import re

# canonical: other names
_SAME = """
acetaminophen: tylenol paracetamol apap
albuterol: ventolin proair proventil salbutamol
alendronate: fosamax
alprazolam: xanax
amlodipine: norvasc
amoxicillin-clavulanate: augmentin co-amoxiclav
apixaban: eliquis
aspirin: asa acetylsalicylic-acid ecotrin
atorvastatin: lipitor
azithromycin: zithromax z-pak
bupropion: wellbutrin
carvedilol: coreg
celecoxib: celebrex
cetirizine: zyrtec
ciprofloxacin: cipro
citalopram: celexa
clonazepam: klonopin
clopidogrel: plavix
cyclobenzaprine: flexeril
diazepam: valium
digoxin: lanoxin
diltiazem: cardizem
diphenhydramine: benadryl
duloxetine: cymbalta
enoxaparin: lovenox
epinephrine: adrenaline epipen
escitalopram: lexapro
esomeprazole: nexium
famotidine: pepcid
fexofenadine: allegra
fluoxetine: prozac
fluticasone: flonase flovent
furosemide: lasix
gabapentin: neurontin
glipizide: glucotrol
hydrochlorothiazide: hctz
hydrocodone: vicodin norco lortab
hydromorphone: dilaudid
ibuprofen: motrin advil
insulin: lantus humalog novolog
isotretinoin: accutane
lamotrigine: lamictal
lansoprazole: prevacid
levetiracetam: keppra
levofloxacin: levaquin
levothyroxine: synthroid
loratadine: claritin
lorazepam: ativan
losartan: cozaar
meloxicam: mobic
metformin: glucophage
methotrexate: mtx
methylphenidate: ritalin
metoprolol: lopressor toprol
metronidazole: flagyl
montelukast: singulair
naproxen: aleve naprosyn
nitroglycerin: ntg
omeprazole: prilosec
ondansetron: zofran
oxycodone: percocet oxycontin
pantoprazole: protonix
paroxetine: paxil
phenytoin: dilantin
pravastatin: pravachol
pregabalin: lyrica
quetiapine: seroquel
ranitidine: zantac
rivaroxaban: xarelto
rosuvastatin: crestor
sertraline: zoloft
sildenafil: viagra
simvastatin: zocor
tamsulosin: flomax
tiotropium: spiriva
tramadol: ultram
trazodone: desyrel
trimethoprim-sulfamethoxazole: bactrim septra co-trimoxazole tmp-smx
venlafaxine: effexor
warfarin: coumadin
zolpidem: ambien
"""
_ALONE = """
acyclovir adalimumab allopurinol amiodarone amitriptyline amoxicillin ampicillin aripiprazole atenolol
baclofen benazepril bisoprolol budesonide buspirone captopril carbamazepine cefazolin cephalexin ceftriaxone
chlorthalidone cisplatin clindamycin clonidine clozapine codeine colchicine cyclophosphamide cyclosporine
dabigatran dexamethasone diclofenac donepezil doxycycline enalapril erythromycin ezetimibe fentanyl
finasteride fluconazole glyburide haloperidol heparin hydralazine hydrocortisone hydroxychloroquine
hydroxyzine infliximab interferon ipratropium ketorolac labetalol linezolid lisinopril lithium lovastatin
meropenem methadone methylprednisolone morphine mupirocin nifedipine nitrofurantoin nortriptyline nystatin
olanzapine oseltamivir oxybutynin penicillin prednisolone prednisone promethazine propranolol quinapril
ramipril risperidone salmeterol spironolactone sulfasalazine sumatriptan tacrolimus tamoxifen temazepam
terbinafine tetracycline ticagrelor tizanidine topiramate triamcinolone valacyclovir valsartan vancomycin
verapamil
"""


@functools.cache
def _names() -> dict[str, str]:
    """{"tylenol": "acetaminophen", "acetaminophen": "acetaminophen", ...}"""
    names = {name: name for name in _ALONE.split()}
    for line in _SAME.strip().split("\n"):
        canonical, _, others = line.partition(":")
        names |= dict.fromkeys([canonical, *others.split()], canonical)
    return names


@functools.cache
def _pattern() -> re.Pattern[str]:
    longest_first = sorted(_names(), key=len, reverse=True)
    words = "|".join(re.escape(name).replace(r"\-", "[- ]") for name in longest_first)
    return re.compile(rf"(?<![\w-])(?:{words})(?!\w)", re.IGNORECASE)


def drugs(text: str) -> set[str]:
    """ "Tylenol and lasix 20" -> {"acetaminophen", "furosemide"}."""
    return {_names()[found.lower().replace(" ", "-")] for found in _pattern().findall(text)}
