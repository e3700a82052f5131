"""Sentence patterns: key -> (patterns of train, patterns of validation). Fields are filled by str.format."""

from __future__ import annotations

# key: (patterns of train, patterns of validation). Fields are filled by str.format.
PATTERNS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "header": (
        (
            "SYNTHETIC NOTE, invented patient {initials}",
            "[SYNTHETIC] Chart of {initials} (not a real person)",
            "SYNTHETIC CLINIC / patient {initials} / made up",
        ),
        ("*** SYNTHETIC RECORD *** {initials}, no real person", "SYNTHETIC case, fictional patient: {initials}"),
    ),
    # Presentation
    "who": (
        (
            "{age}-year-old {noun} with {symptoms} for {duration}.",
            "{age} y/o {letter} presenting with {symptoms} x {duration}.",
            "{initials} is {article} {age}-year-old {noun} who reports {symptoms} for the past {duration}.",
        ),
        (
            "{noun_cap} aged {age}; {symptoms}, going on for {duration}.",
            "The patient, {age} years of age ({word}), came because of {symptoms}. Onset: {duration} ago.",
        ),
    ),
    "who_well": (
        (
            "{age}-year-old {noun}, {symptoms}.",
            "{age} y/o {letter}; {symptoms}.",
            "{initials}, {age}-year-old {noun}: {symptoms}.",
        ),
        ("{noun_cap} aged {age} ({symptoms}).", "The patient, {age} years of age ({word}); {symptoms}."),
    ),
    "flag": (
        ("Also reports {flag}.", "Arrived with {flag}.", "There is {flag}."),
        ("Brought in because of {flag}.", "Of note: {flag}, seen by a witness."),
    ),
    "no_flag": (
        ("Denies {flag}.", "No {flag}.", "Negative for {flag}."),
        ("Asked about {flag}: none.", "Did not suffer {flag}."),
    ),
    "known": (
        ("History of {names}.", "PMH: {names}.", "Known {names}."),
        ("Long-standing problems: {names}.", "Has lived for years with {names}."),
    ),
    "no_known": (
        ("No chronic illness.", "PMH unremarkable.", "Otherwise healthy."),
        ("So far free of lasting illness.", "No problems carried over from earlier years."),
    ),
    "smoking_never": (("Never smoked.", "Nonsmoker."), ("Tobacco: none, ever.",)),
    "smoking_former": (("Former smoker.", "Quit smoking years ago."), ("Gave up tobacco long ago.",)),
    "smoking_current": (("Smokes daily.", "Current smoker."), ("Tobacco: still uses it each day.",)),
    # Medicines
    "medicine": (
        ("{name} {amount} {freq}", "{name} {amount} PO {freq}", "{name} ({amount}, {freq})"),
        ("{name}, {amount}, {freq}", "{amount} of {name} {freq}"),
    ),
    "medicine_plain": (("{name} {amount} {freq}",), ("{name}, {amount}, {freq}",)),  # not swallowed
    "home": (
        ("Takes {list}.", "Current medications: {list}.", "Home meds: {list}."),
        ("Regular medicines are {list}.", "At home uses {list}."),
    ),
    "given": (
        ("Gave {list}.", "Treated with {list}.", "Received {list}."),
        ("The team gave {list}.", "Was treated by {list}."),
    ),
    "started": (
        ("Start {list}.", "Prescribed {list}.", "Rx: {list}."),
        ("Begin treatment: {list}.", "Newly ordered today: {list}."),
    ),
    "stopped": (
        ("{name} was stopped last year.", "Stopped {name} some months ago.", "Previously on {name}, discontinued."),
        ("No longer uses {name}.", "{name} ended long before this visit."),
    ),
    "home_nothing": (
        ("Takes no medications.", "Medications: none.", "Not on any medication; none prescribed."),
        ("Uses no medicines whatsoever.", "Medicine list is empty."),
    ),
    "home_negated": (
        ("Denies taking any medication; {name} was stopped last year.", "Not taking {name} any more and nothing else."),
        ("Asked about medicines, says none since {name} ended.", "{name} was given up; nothing has replaced it."),
    ),
    "home_family": (
        ("The {who} takes {name} {amount}.", "{who_cap} is on {name} {amount}."),
        ("It is the {who} who uses {name} {amount}.", "In the household, {name} {amount} belongs to the {who}."),
    ),
    # Allergies
    "allergy": (
        ("{name} ({reaction})", "{name} - {reaction}", "{name}, which caused {reaction}"),
        ("{name}: {reaction}", "{name} with {reaction} on contact"),
    ),
    "allergies": (
        ("Allergies: {list}.", "Allergic to {list}.", "ALLERGY {list}."),
        ("Known intolerance: {list}.", "Reacts badly to {list}."),
    ),
    "allergy_nothing": (
        ("NKDA.", "No known allergies.", "Allergies: none known."),
        ("Has never reacted to any medicine or food.", "Allergy status asked: clear."),
    ),
    "allergy_negated": (
        ("Denies allergy to {name} or anything else.", "No allergy to {name}; no other allergies."),
        ("Tolerated {name} well; free of allergies.", "With {name} never a reaction, nor is another allergy known."),
    ),
    "allergy_family": (
        ("The {who} is allergic to {name}.", "{who_cap} has an allergy to {name}."),
        ("A reaction to {name} occurred in the {who}.", "It was the {who} who could not take {name}."),
    ),
    # Family
    "family": (
        ("Family history: {who} with {name}.", "{who_cap} has {name}.", "FH: {name} ({who})."),
        ("In the family, the {who} suffers from {name}.", "{name} is known in the {who}."),
    ),
    # Findings
    "vitals": (
        (
            "BP {sbp}/{dbp}, HR {hr}, RR {rr}, SpO2 {spo2}%, T {temp} C.",
            "T {temp} C, HR {hr}, BP {sbp}/{dbp}, RR {rr}, SpO2 {spo2}%.",
            "HR {hr}, BP {sbp}/{dbp}, SpO2 {spo2}% RA, RR {rr}, T {temp} C.",
        ),
        (
            "Temperature {temp} °C, pulse {hr}/min, breaths {rr}/min, oxygen {spo2}%, blood pressure {sbp}/{dbp} mmHg.",
            "Measured: pulse {hr}, blood pressure {sbp}/{dbp}, oxygen {spo2}%, breaths {rr}, temperature {temp}.",
        ),
    ),
    "no_vitals": (
        ("Vital signs not recorded.", "No vitals taken."),
        ("Nobody noted pulse, pressure or temperature.", "The field for measurements was left blank."),
    ),
    "exam": (
        ("Exam: {findings}.", "On exam {findings}.", "O/E: {findings}."),
        ("Looking at the patient: {findings}.", "Physical findings were {findings}."),
    ),
    # Procedures
    "done": (
        ("{list} done today.", "Performed: {list}.", "Obtained {list}."),
        ("Today the team carried out: {list}.", "Already completed: {list}."),
    ),
    "done_stay": (("{list} done during admission.", "Inpatient workup: {list}."), ("While in hospital: {list}.",)),
    "arrival": (("On arrival: {text}", "Admission vitals: {text}"), ("{text} This was at the door.",)),
    "planned": (
        ("Plan {list}.", "Order {list}.", "{list} to be scheduled."),
        ("Still to come: {list}.", "An appointment for {list} will follow."),
    ),
    "declined": (
        ("Declined {name}.", "{name} offered, patient declined.", "Refuses {name}."),
        ("Did not agree to {name}.", "{name} was suggested but turned down."),
    ),
    "procedure_nothing": (
        ("No tests or procedures.", "No workup done or ordered.", "No investigations needed."),
        (
            "Nothing was measured, imaged or operated on, and nothing is due.",
            "Neither tests nor interventions, now or later.",
        ),
    ),
    "procedure_family": (
        ("The {who} had {name} last month.", "{who_cap} recently underwent {name}."),
        ("Last month {name} was performed on the {who}.", "It was the {who} who went for {name}."),
    ),
    # Conclusion
    "diagnosis": (
        ("Diagnosis: {name}.", "Consistent with {name}.", "Impression: {name}.", "{name_cap}."),
        ("All in all this is {name}.", "We conclude: {name}."),
    ),
    "review": (
        ("{name_cap}, follow-up.", "Follow-up of {name}.", "Established {name}, reviewed today."),
        ("Visit for {name}, which is known.", "Check of the known {name}."),
    ),
    "excluded": (
        ("{names} ruled out.", "No evidence of {names}.", "Workup negative for {names}."),
        ("We found nothing to support {names}.", "{names} could be excluded."),
    ),
    "open": (
        (
            "{complaint_cap}, cause not established.",
            "Unexplained {complaint}, no diagnosis yet.",
            "{complaint_cap} of unclear origin.",
        ),
        ("What lies behind the {complaint} is still open.", "The {complaint} remains without explanation."),
    ),
    "well": (
        ("Healthy adult, no diagnosis.", "Well visit, nothing found."),
        ("In good health, without any illness.", "This visit brought no illness to light."),
    ),
    "follow_up": (
        ("Return in {duration}.", "Follow up in {duration}.", "RTC {duration}."),
        ("See again after {duration}.", "Next appointment {duration} from now."),
    ),
    "disposition": (
        ("Sent to the emergency department now.", "Admit to hospital.", "Ambulance called."),
        ("Handed over to the hospital at once.", "Goes straight to the acute ward."),
    ),
    # The same under a heading that says what it is
    "known_headed": (("{names}.",), ("Present since long: {names}.",)),
    "home_headed": (("{list}.",), ("Now {list}.", "In regular use {list}.")),
    "allergies_headed": (("{list}.",), ("To be avoided: {list}.",)),
    "family_headed": (("{who_cap}: {name}.", "{name} ({who})."), ("{name} in the {who}.",)),
    "exam_headed": (("{findings}.",), ("Seen and felt: {findings}.",)),
    # Hospital
    "admitted": (
        (
            "Admitted {days} days ago with {symptoms}.",
            "{age}-year-old {noun} admitted for {symptoms}; stay of {days} days.",
        ),
        ("Came into hospital with {symptoms} and stayed {days} days ({word}, aged {age}).",),
    ),
    "course": (
        ("Improved on treatment.", "Stable course on the ward.", "Symptoms settled during the stay."),
        ("Day by day things got better.", "The stay passed without trouble."),
    ),
    "going_home": (
        ("Discharged home in good condition.", "Sent home, condition stable."),
        ("Left the ward well enough to go home.", "Could return home in a steady state."),
    ),
    "discharge_medicines": (
        ("Discharge medications: {list}.", "Meds on discharge: {list}."),
        ("To take after leaving: {list}.", "Medicines for home: {list}."),
    ),
    # Procedure notes
    "indication": (("Indication: {text}.", "Reason for procedure: {text}."), ("Why it was done: {text}.",)),
    "consent": (
        ("Risks explained, written consent obtained.", "Informed consent signed; time-out done."),
        ("The patient agreed in writing after a talk about the risks.",),
    ),
    "steps": (("{text}.", "Technique: {text}."), ("How it went: {text}.",)),
    "operation_finding": (("Findings: {text}.", "Result: {text}."), ("What came out: {text}.",)),
    "complications": (
        ("No complications, minimal blood loss.", "Tolerated well, no complications."),
        ("It passed without incident and hardly bled.",),
    ),
    # Nothing clinical: which kind of document is none of the four
    "office": (
        (
            "Your appointment has moved to {day} at {hour}:30. Please bring your card and a list of questions.",
            "Reminder: payment of the parking fee is due by {day}. The front desk is open until {hour}:00.",
            "The clinic entrance is closed on {day} from {hour}:00 for repair work. Please use the side door.",
            "We received your request for a copy of your records. It will be ready on {day} after {hour}:00.",
        ),
        (
            "On {day} the telephone line is down until {hour}:00; kindly write to the front office in the meantime.",
            "A new car park opens on {day}, {hour}:15. The shuttle bus will stop in front of the main hall.",
        ),
    ),
    "office_close": (
        ("Thank you, the front office.", "Questions? Call the front desk.", "Kind regards, scheduling."),
        ("With best wishes from reception.", "Reception is glad to help."),
    ),
    # Questions
    "q_dose": (
        (
            "What dose of {name} does the patient get?",
            "How much {name} is given each time?",
            "State the dose of {name}.",
        ),
        ("Which amount of {name} is listed?",),
    ),
    "q_frequency": (
        ("How often is {name} taken?", "What is the schedule of {name}?"),
        ("At what times is {name} to be used?",),
    ),
    "q_reaction": (
        ("What reaction does {name} cause in this patient?", "How did the patient react to {name}?"),
        ("What happened on contact with {name}?",),
    ),
    "q_pressure": (("What was the blood pressure?", "Give the BP reading."), ("Which blood pressure was measured?",)),
    "q_heart_rate": (("What was the heart rate?", "Give the HR."), ("How fast was the pulse?",)),
    "q_temperature": (
        ("What was the temperature in Celsius?", "How high was the temperature?"),
        ("Which temperature was noted?",),
    ),
    "q_saturation": (
        ("What was the oxygen saturation?", "Give the SpO2."),
        ("How well was the blood oxygenated, in per cent?",),
    ),
    "q_test": (("Was {name} done, or is it planned?", "What is the status of {name}?"), ("Has {name} taken place?",)),
    "q_illness": (
        ("Does the patient have {name}?", "Is {name} one of the patient's diagnoses?"),
        ("Would you say that this patient suffers from {name}?",),
    ),
    "q_flag": (("Did the patient have {flag}?", "Was there {flag}?"), ("Does the record describe {flag}?",)),
    "q_age": (
        ("How old is the patient?", "What is the patient's age?"),
        ("State the number of years of the patient.",),
    ),
    "q_duration": (
        ("How long has the patient had symptoms?", "For how long have the symptoms lasted?"),
        ("When did it begin, counted in time before the visit?",),
    ),
    "q_follow_up": (
        ("When should the patient come back?", "When is follow-up?"),
        ("After what time is the next visit?",),
    ),
    "q_smoking": (
        ("Does the patient smoke?", "What is the smoking status?"),
        ("How does the patient stand with tobacco?",),
    ),
    "q_work": (
        ("What is the patient's occupation?", "What work does the patient do?"),
        ("How does the patient earn a living?",),
    ),
    "q_alcohol": (
        ("How much alcohol does the patient drink?", "Is there any alcohol use?"),
        ("What is said of drinking habits?",),
    ),
    "q_weight": (("What is the patient's weight?", "How much does the patient weigh?"), ("How heavy is the patient?",)),
    "q_who": (("Who has {name}?", "Which person is said to have {name}?"), ("In whom is {name} known?",)),
    "q_conflict": (
        (
            "Does a medicine in the note conflict with a recorded allergy?",
            "Is any listed medicine unsafe given the allergies?",
            "Check the medicines against the allergies: is there a conflict?",
        ),
        ("Would one of the medicines be a mistake because of an allergy?",),
    ),
}
