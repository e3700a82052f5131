"""What the tables of illnesses say of each: the record type of chronic.py and acute.py."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Condition:
    """One illness, or (names == "") a complaint whose cause stays open.

    Attributes:
      key, group: `group` gathers forms of one illness ("asthma" and its exacerbation): none is both had and ruled out.
      names, lay, about: the wordings; "a lung infection"; completes "This means ...".
      levels: urgency that it can present with: some of "RUE" (routine, urgent, emergent).
      ages, sexes: whom it may befall.
      symptoms, findings: up to three and up to two.
      treat, home: slots of medicines (started now; taken already); a slot lists alternatives, best first, by commas.
        "drug@10 bid" restricts the regimen.
      tests, plans: keys of procedures done and planned.
      urgent, critical: which vitals cross the urgent or the emergent threshold ("temp hr rr spo2 sbp").
      flag: key of `RED_FLAGS` that an emergent case shows; `flag_always` if it does whatever the vitals.
      chronic: may be a known condition of somebody who comes for something else.
      admit: such a patient may be admitted. hospital: has to be, even where the vital signs are calm.
      drugless, testless: may go without any medicine, any test.
      well: comes without complaints; the one symptom says what for.
      complaint, excluded: for open complaints, its name and the conditions that were looked for.
    """

    key: str
    group: str
    names: str = ""
    lay: str = ""
    about: str = ""
    levels: str
    ages: tuple[int, int] = (18, 88)
    sexes: str = "FM"
    symptoms: tuple[str, ...]
    findings: tuple[str, ...]
    treat: tuple[str, ...] = ()
    home: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    urgent: str = ""
    critical: str = ""
    flag: str = ""
    flag_always: bool = False
    chronic: bool = False
    admit: bool = False
    hospital: bool = False
    drugless: bool = False
    testless: bool = False
    well: bool = False
    complaint: str = ""
    excluded: tuple[str, ...] = ()
