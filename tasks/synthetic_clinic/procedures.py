"""Tests and procedures of the synthetic clinic, and the small operations that procedure notes are about.

Names have three wordings, "canonical|only in train|only in validation"; other texts two, "train|validation".
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Procedure:
    """Attributes: `names` (three wordings), `lay` (plain words, completes "a ..."), `result` (an unremarkable result,
    "train|validation", or "" where none fits in a few words), `contrast` (needs iodinated contrast)."""

    key: str
    names: str
    lay: str
    result: str = ""
    contrast: bool = False


_ALL = (
    Procedure(key="ecg", names="12-lead ECG|EKG|electrocardiogram", lay="a painless heart tracing"),
    Procedure(
        key="troponin", names="troponin test|cardiac troponin|serum troponin", lay="a blood test for heart damage"
    ),
    Procedure(key="cxr", names="chest X-ray|CXR|chest radiograph", lay="an X-ray picture of the chest"),
    Procedure(key="ct_head", names="CT of the head|head CT|brain CT", lay="a scan of the head"),
    Procedure(
        key="ct_abdomen",
        names="contrast CT of the abdomen|abdominal CT with contrast|contrast-enhanced abdominal CT",
        lay="a scan of the belly",
        contrast=True,
    ),
    Procedure(
        key="ctpa",
        names="CT pulmonary angiogram|CTPA|CT angiogram of the lungs",
        lay="a scan of the lung vessels",
        contrast=True,
    ),
    Procedure(
        key="angiography",
        names="coronary angiography|cardiac catheterization|coronary angiogram",
        lay="an X-ray test of the heart vessels",
        contrast=True,
    ),
    Procedure(key="echo", names="echocardiogram|TTE|cardiac ultrasound", lay="an ultrasound picture of the heart"),
    Procedure(key="spirometry", names="spirometry|pulmonary function test|lung function test", lay="a breathing test"),
    Procedure(
        key="peak_flow", names="peak flow measurement|peak flow|peak expiratory flow", lay="a quick breathing test"
    ),
    Procedure(key="urinalysis", names="urinalysis|UA|urine dipstick", lay="a urine test"),
    Procedure(key="urine_culture", names="urine culture|UCx|culture of the urine", lay="a urine test for germs"),
    Procedure(key="blood_culture", names="blood cultures|BCx x2|cultures of the blood", lay="a blood test for germs"),
    Procedure(key="flu_swab", names="influenza swab|rapid flu test|flu antigen swab", lay="a nose swab for flu"),
    Procedure(key="a1c", names="hemoglobin A1c|HbA1c|glycated hemoglobin", lay="a blood test of average sugar"),
    Procedure(key="lipids", names="lipid panel|fasting lipids|cholesterol panel", lay="a blood test of cholesterol"),
    Procedure(
        key="tsh", names="TSH test|serum TSH|thyroid-stimulating hormone level", lay="a blood test of the thyroid"
    ),
    Procedure(key="cbc", names="complete blood count|CBC|full blood count", lay="a blood count"),
    Procedure(key="ferritin", names="ferritin level|serum ferritin|iron studies", lay="a blood test of iron"),
    Procedure(
        key="creatinine",
        names="creatinine level|serum creatinine|kidney function test",
        lay="a blood test of the kidneys",
    ),
    Procedure(key="uric_acid", names="uric acid level|serum urate|blood urate level", lay="a blood test of uric acid"),
    Procedure(
        key="psa", names="PSA test|serum PSA|prostate-specific antigen level", lay="a blood test of the prostate"
    ),
    Procedure(key="bnp", names="BNP level|serum BNP|natriuretic peptide level", lay="a blood test of heart strain"),
    Procedure(
        key="knee_xray", names="knee X-ray|knee films|radiograph of the knee", lay="an X-ray picture of the knee"
    ),
    Procedure(
        key="ankle_xray", names="ankle X-ray|ankle films|radiograph of the ankle", lay="an X-ray picture of the ankle"
    ),
    Procedure(key="dxa", names="DXA scan|DEXA|bone density scan", lay="a bone strength scan"),
    Procedure(key="mammogram", names="screening mammogram|mammography|breast X-ray screening", lay="a breast X-ray"),
    Procedure(
        key="colonoscopy",
        names="colonoscopy|screening colonoscopy|endoscopy of the colon",
        lay="a camera look at the bowel",
    ),
    Procedure(key="endoscopy", names="upper endoscopy|EGD|gastroscopy", lay="a camera look at the stomach"),
    Procedure(
        key="us_abdomen",
        names="abdominal ultrasound|US of the abdomen|sonogram of the abdomen",
        lay="an ultrasound picture of the belly",
    ),
    Procedure(
        key="us_leg",
        names="leg vein ultrasound|venous duplex|Doppler scan of the leg veins",
        lay="an ultrasound picture of the leg veins",
    ),
    Procedure(
        key="us_prenatal",
        names="prenatal ultrasound|OB ultrasound|fetal sonogram",
        lay="an ultrasound picture of the baby",
    ),
    Procedure(
        key="appendectomy",
        names="laparoscopic appendectomy|lap appendectomy|keyhole appendix removal",
        lay="an operation to take out the appendix",
    ),
    Procedure(
        key="cholecystectomy",
        names="laparoscopic cholecystectomy|lap chole|keyhole gallbladder removal",
        lay="an operation to take out the gallbladder",
    ),
)

PROCEDURES: dict[str, Procedure] = {procedure.key: procedure for procedure in _ALL}

# Tests that nobody needs today, for "declined" and relatives' tests: plausible for any adult.
COMMON_TESTS = ("lipids", "cbc", "ecg", "cxr", "colonoscopy")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """What a procedure note reports: why, how ("train|validation") and what was found ("train|validation")."""

    names: str
    indication: str
    steps: str
    finding: str


OPERATIONS = (
    Operation(
        names="punch biopsy of the skin|skin punch biopsy|sampling of a skin lesion",
        indication="changing mole on the back|mole of the back that has altered",
        steps="A 4 mm punch was taken and one suture placed|One 4 mm core was removed and the gap closed with a stitch",
        finding="specimen sent to pathology|tissue passed to the laboratory",
    ),
    Operation(
        names="knee joint aspiration|arthrocentesis of the knee|needle drainage of the knee",
        indication="swollen right knee|effusion of the right knee",
        steps="A needle was passed from the side and 20 mL of fluid withdrawn|"
        "From a lateral entry 20 mL were drawn off",
        finding="clear yellow fluid|fluid straw-coloured and clear",
    ),
    Operation(
        names="incision and drainage of an abscess|I&D|surgical drainage of an abscess",
        indication="abscess of the left thigh|painful collection in the left thigh",
        steps="The skin was opened over the abscess, pus drained and the cavity packed|"
        "A cut was made over the swelling, pus let out and a wick left inside",
        finding="10 mL of pus|about 10 mL purulent material",
    ),
    Operation(
        names="laceration repair|suture repair|stitching of a wound",
        indication="4 cm cut of the forearm|open forearm wound 4 cm long",
        steps="The wound was washed and closed with six sutures|After rinsing, six stitches brought the edges together",
        finding="no tendon injury seen|tendons intact",
    ),
    Operation(
        names="colonoscopy|lower endoscopy|endoscopy of the colon",
        indication="routine bowel screening|screening of the bowel at the usual age",
        steps="The scope was advanced to the cecum and withdrawn slowly|Cecum reached, careful look on the way out",
        finding="one 5 mm polyp removed|a single 5 mm polyp, taken out",
    ),
    Operation(
        names="upper endoscopy|EGD|gastroscopy",
        indication="difficulty swallowing|food sticking on the way down",
        steps="The scope was passed to the duodenum under light sedation|With light sedation the duodenum was reached",
        finding="mild redness of the lower esophagus|lower esophagus slightly red",
    ),
    Operation(
        names="steroid injection of the shoulder|subacromial injection|shoulder joint injection",
        indication="stiff, painful shoulder|shoulder pain with loss of movement",
        steps="The space was entered from behind and 40 mg of triamcinolone given|"
        "A posterior approach was used to give triamcinolone 40 mg",
        finding="less pain on movement at once|movement easier straight away",
    ),
)
