"""The readers of clinical data sets on rows made by hand: layouts, quirks, splits, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from itune.data import normalise
from itune.errors import UserError
from tasks.clinical_sources import (
    aci_bench,
    acuity,
    ade,
    avey,
    cochrane_plain,
    medical_abstracts,
    medqa,
    medquad,
    mts_dialog,
    mtsamples,
    ncbi_disease,
    nursesim,
    terms,
)
from tasks.clinical_sources.sides import connected, divided, passages, published

SPLITS = ("train", "validation")
LONG = "the patient was seen for a long story about her left knee which hurt"  # 14 words


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_bytes(text.encode(encoding))
    return str(path)


def table(path: Path, header: str, *rows: str) -> str:
    return write(path, "\n".join((header, *rows)) + "\n")


def jsonl(path: Path, *records: dict) -> str:
    return write(path, "".join(json.dumps(record) + "\n" for record in records))


def both(rows, **settings) -> tuple[list, list]:
    train, validation = (list(rows(split, **settings)) for split in SPLITS)
    assert not {row["id"] for row in train} & {row["id"] for row in validation}
    return train, validation


def every(sides) -> list:
    return [row for side in sides for row in side]


class TestSides:
    def test_passages(self) -> None:
        words = LONG.split()
        assert passages(LONG) == {" ".join(words[:13]), " ".join(words[1:])}
        assert passages("One, two three four FIVE six seven eight") == {"one two three four five six seven eight"}
        assert passages("The patient denies any allergies.") == set()

    def test_connected(self) -> None:
        assert connected([{"a"}, {"b"}, {"a", "c"}, {"c"}, set()]) == [0, 1, 0, 0, 4]
        # A late row joins two groups that were apart.
        assert connected([{"a"}, {"b"}, {"a", "b"}]) == [0, 0, 0]

    def test_groups_stay_together_and_a_tenth_is_validation(self) -> None:
        rows = [{"id": f"{i:03}"} for i in range(300)]
        keys = [{f"group {i // 3}"} for i in range(300)]
        held = {row["id"] for row in divided("validation", rows, keys, identity="x")}
        kept = {row["id"] for row in divided("train", rows, keys, identity="x")}
        assert len(held) == 30 and held | kept == {row["id"] for row in rows} and not held & kept
        assert all(len({f"{3 * i + j:03}" for j in range(3)} & held) in (0, 3) for i in range(100))
        assert {row["id"] for row in divided("validation", rows, keys, identity="y")} != held

    def test_published(self) -> None:
        train = [({"id": "1"}, {"a"}), ({"id": "2"}, {"b"}), ({"id": "2"}, {"b"})]
        test = [({"id": "3"}, {"a"}), ({"id": "4"}, {"c"})]
        assert [row["id"] for row in published("train", train, test)] == ["2"]
        assert [row["id"] for row in published("validation", train, test)] == ["3", "4"]


class TestDialogues:
    def test_mts_dialog(self, tmp_path: Path) -> None:
        header = "ID,section_header,section_text,dialogue"
        train = table(
            tmp_path / "train.csv",
            header,
            '0,ALLERGY,Penicillin.,"Doctor: Any?\r\nPatient: Penicillin, ""hives""."',
            f'1,GENHX,"{LONG}","Doctor: What brings you?"',
            '2,CC,"Cough.",""',
        )
        test = table(tmp_path / "test.csv", header, f'0,GENHX,"Well, {LONG}.","Doctor: And you?"')
        rows, held = both(mts_dialog.rows, train=train, test=test)
        # The second shares 13 words with validation, the third has no dialogue.
        (row,) = rows
        assert row["dialogue"] == 'Doctor: Any?\nPatient: Penicillin, "hives".'
        assert (row["note"], row["header"], row["section"]) == ("Penicillin.", "ALLERGY", "allergies")
        assert "family and social history" in row["sections"] and len(held) == 1

    def test_mts_dialog_names_an_unknown_section(self, tmp_path: Path) -> None:
        path = table(tmp_path / "a.csv", "ID,section_header,section_text,dialogue", "0,ALLERGIES,x,y")
        with pytest.raises(UserError, match=r"a.csv:2: no section 'ALLERGIES' is known. Did you mean 'ALLERGY'"):
            list(mts_dialog.rows("train", train=path, test=path))

    def test_aci_bench(self, tmp_path: Path) -> None:
        header = "dataset,encounter_id,dialogue,note"
        note = '"CC:\n\nCough.\n\nASSESSMENT AND PLAN\n\nVITALS stable. Rest."'
        train = table(tmp_path / "train.csv", header, f"aci,D1,[doctor] hi,{note}", "aci,D2,[doctor]  HI again,x")
        test = table(tmp_path / "test.csv", header, "aci,D3,[doctor] hi again,Fine.")
        (row,), held = both(aci_bench.rows, train=train, test=test)
        assert (row["id"], row["sections"], row["recording"]) == ("D1", "CC, ASSESSMENT AND PLAN", "aci")
        assert [r["id"] for r in held] == ["D3"]


MEDQA = {"question": "Which?", "answer": "Two", "options": {"B": "Two", "A": "One"}, "answer_idx": "B"}


class TestQuestions:
    def test_medquad_keeps_a_topic_on_one_side(self, tmp_path: Path) -> None:
        def record(i: int, **changes: str) -> dict:
            base = {"question": f"What is (are) disease {i} ?", "answer": f"It is {i}.", "focus": f"disease {i // 2}"}
            return {"source": "GHR", "url": "u", "qtype": "information", **base, **changes}

        shared = [record(200, answer="Ask."), record(201, answer="ask", focus="other"), record(300, focus="")]
        path = jsonl(tmp_path / "q.jsonl", *(record(i) for i in range(100)), record(0), *shared)
        rows, held = both(medquad.rows, path=path, identity="medquad")
        assert len(rows) + len(held) == 103 and 8 <= len(held) <= 10
        for name in ("topic", "answer"):
            mine = [{normalise(r[name]) for r in side if r[name]} for side in (rows, held)]
            assert not mine[0] & mine[1], name
        assert "What is (are) disease 0?" in {r["question"] for r in rows + held}

    def test_medqa(self, tmp_path: Path) -> None:
        test = jsonl(tmp_path / "test.jsonl", MEDQA | {"question": "And which now?"})
        train = jsonl(tmp_path / "train.jsonl", MEDQA, MEDQA | {"question": "and which NOW"})
        (row,), held = both(medqa.rows, train=train, test=test)
        want = {"question": "Which?", "options": "A. One\nB. Two", "letter": "B", "answer": "Two"}
        assert {k: v for k, v in row.items() if k != "id"} == want and len(held) == 1

    @pytest.mark.parametrize(
        ("change", "said"),
        [({"answer_idx": "E"}, "answer_idx 'E' is none of"), ({"options": ["One"]}, "'options' must be an object")],
    )
    def test_medqa_refuses(self, tmp_path: Path, change: dict, said: str) -> None:
        path = jsonl(tmp_path / "a.jsonl", MEDQA | change)
        with pytest.raises(UserError, match=f"a.jsonl:1: {said}"):
            list(medqa.rows("train", train=path, test=path))


SENTENCE = "Naproxen |and oxaprozin| caused pseudoporphyria, then naïve cells and pseudoporphyria."


def ade_files(
    tmp_path: Path, *relations: str, encoding: str = "latin-1", negative: str = "9 NEG All was well."
) -> dict:
    return {
        "effects": write(tmp_path / "ae.rel", "".join(f"{line}\n" for line in relations), encoding),
        "doses": write(tmp_path / "dose.rel", "7|Took 5 mg of aspirin.|5 mg|105|109|aspirin|113|120\n"),
        "negatives": write(tmp_path / "neg.txt", f"{negative}\n"),
    }


def relation(text: str, drug: str, *, shift: int = 500, article: str = "1") -> str:
    spans = [(w, SENTENCE.index(w) + shift, SENTENCE.index(w) + shift + len(w)) for w in (text, drug)]
    return "|".join((article, SENTENCE, *(str(part) for span in spans for part in span)))


class TestAde:
    @pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
    def test_relations_of_a_sentence_in_order(self, tmp_path: Path, encoding: str) -> None:
        lines = [relation("pseudoporphyria", drug) for drug in ("oxaprozin", "Naproxen", "Naproxen")]
        files = ade_files(tmp_path, *lines, encoding=encoding)
        rows = every(both(ade.rows, task="effects", identity="ade", **files))
        (row,) = [r for r in rows if r["article"] == "1"]
        assert row["sentence"] == SENTENCE  # with its "|" and its latin-1 letter
        assert json.loads(row["answer"]) == {
            "relations": [
                {"drug": "Naproxen", "adverse_effect": "pseudoporphyria"},
                {"drug": "oxaprozin", "adverse_effect": "pseudoporphyria"},
            ]
        }

    def test_doses(self, tmp_path: Path) -> None:
        files = ade_files(tmp_path, relation("pseudoporphyria", "Naproxen"))
        (row,) = every(both(ade.rows, task="doses", identity="ade", **files))
        assert json.loads(row["answer"]) == {"doses": [{"drug": "aspirin", "dose": "5 mg"}]}

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            (relation("pseudoporphyria", "Naproxen").replace("|500|508", "|501|509"), "do not fit"),  # too near
            (relation("pseudoporphyria", "Naproxen").replace("|500|508", "|500|509"), "do not fit"),  # too long
            (relation("pseudoporphyria", "Naproxen").replace("|Naproxen|", "|Naproxan|"), "do not fit"),
            ("1|text|drug|1|2|drug", "expected article"),
            ("1|text|effect|a|2|drug|1|2", "expected article"),
        ],
    )
    def test_offsets_are_checked(self, tmp_path: Path, line: str, said: str) -> None:
        files = ade_files(tmp_path, relation("pseudoporphyria", "oxaprozin"), line)
        with pytest.raises(UserError, match=rf"ae.rel:2: .*{said}"):
            list(ade.rows("train", task="effects", identity="ade", **files))

    def test_negatives_are_a_quarter_with_empty_lists(self, tmp_path: Path) -> None:
        negative = "\n".join(f"{i} NEG Nothing happened to person {i}." for i in range(10, 410))
        files = ade_files(tmp_path, relation("pseudoporphyria", "Naproxen"), negative=negative)
        rows = every(both(ade.rows, task="effects", identity="ade", **files))
        empty = [r for r in rows if json.loads(r["answer"]) == {"relations": []}]
        assert 75 <= len(empty) <= 125 and len(rows) == len(empty) + 1
        with pytest.raises(UserError, match="neg.txt:1: expected 'article NEG sentence'"):
            list(ade.rows("train", task="effects", identity="ade", **ade_files(tmp_path, negative="Nothing.")))

    def test_an_article_is_on_one_side_for_both_tasks(self, tmp_path: Path) -> None:
        def line(i: int, kind: str) -> str:
            return f"{i}|{kind} {i} mg of drug{i} made rash{i}.|rash{i}|{{}}|{{}}|drug{i}|{{}}|{{}}"

        def filled(i: int, kind: str) -> str:
            sentence = line(i, kind).split("|")[1]
            a, d = sentence.index(f"rash{i}"), sentence.index(f"drug{i}")
            return line(i, kind).format(a, a + len(f"rash{i}"), d, d + len(f"drug{i}"))

        files = ade_files(tmp_path, *(filled(i, "Here") for i in range(50)))
        write(tmp_path / "dose.rel", "".join(filled(i, "There") + "\n" for i in range(50)))
        effects, doses = (both(ade.rows, task=task, identity="ade", **files) for task in ("effects", "doses"))
        train, validation = ({r["article"] for r in (*effects[k], *doses[k])} for k in (0, 1))
        assert not train & validation and len(validation) == len(doses[1]) == 5


class TestNcbi:
    def test_mentions(self, tmp_path: Path) -> None:
        tagged = "The O,adenomatous B-Disease,polyposis I-Disease,( I-Disease,APC I-Disease,) I-Disease,"
        tagged += "tumour I-Disease,- O,gene O,and O,gout B-Disease,flu B-Disease,/ O,gout B-Disease,. O"
        lines = "\n".join(pair.replace(" ", "\t") for pair in tagged.split(",") if pair)
        train = write(tmp_path / "train.tsv", f"{lines}\n\n\nNo\tO\none\tO")
        test = write(tmp_path / "devel.tsv", "no\tO\nOne\tO")  # no line break at the end
        (row,), (_,) = both(ncbi_disease.rows, train=train, test=test)
        assert row["sentence"] == "The adenomatous polyposis (APC) tumour-gene and gout flu/gout."
        assert json.loads(row["answer"]) == {"diseases": ["adenomatous polyposis (APC) tumour", "gout", "flu"]}

    @pytest.mark.parametrize(
        ("line", "said"), [("x\tI-Disease", "without a B-Disease"), ("x O", "expected a token"), ("x\tB", "one of O")]
    )
    def test_refused(self, tmp_path: Path, line: str, said: str) -> None:
        path = write(tmp_path / "a.tsv", f"a\tO\n{line}\n")
        with pytest.raises(UserError, match=f"a.tsv:2: .*{said}"):
            list(ncbi_disease.rows("train", train=path, test=path))

    def test_offsets_of_joined_tokens(self) -> None:
        text, starts = ncbi_disease.joined(["(", "APC", ")", "tumour", "-", "x", "."])
        assert (text, starts) == ("(APC) tumour-x.", [0, 1, 4, 6, 12, 13, 14])


class TestClassification:
    LABELS = ("condition_label,condition_name", "1,neoplasms", "2,digestive system diseases")

    def abstracts(self, tmp_path: Path, *rows: str, **settings) -> tuple[list, list]:
        labels = table(tmp_path / "labels.csv", *self.LABELS)
        path = tmp_path / "test.csv.gz"
        path.write_bytes(gzip.compress("\n".join(("condition_label,medical_abstract", *rows)).encode()))
        return both(medical_abstracts.rows, path=str(path), labels=labels, identity="m", **settings)

    def test_contradictions_and_repeats(self, tmp_path: Path) -> None:
        rows = ['1,"A tumor, found."', "2,A gut.", "1,Both.", "2,both!", "2,A GUT"]
        found = every(self.abstracts(tmp_path, *rows))
        assert {(r["abstract"], r["condition"]) for r in found} == {
            ("A tumor, found.", "neoplasms"),
            ("A gut.", "digestive system diseases"),
        }
        assert found[0]["conditions"] == "neoplasms, digestive system diseases"
        with pytest.raises(UserError, match="test.csv.gz:2: class '3' is not in"):
            self.abstracts(tmp_path, "3,x")

    def test_sentences_of_ade_are_left_out(self, tmp_path: Path) -> None:
        text = "Immobilization and dihydrotachysterol with rifampicin together caused rash in two of the three patients"
        a, d = text.index("rash"), text.index("rifampicin")
        files = ade_files(tmp_path, f"1|{text}.|rash|{a}|{a + 4}|rifampicin|{d}|{d + 10}")
        rows = [f"1,Title. {text} seen.", "2,A gut."]
        assert len(every(self.abstracts(tmp_path, *rows))) == 2
        (row,) = every(self.abstracts(tmp_path, *rows, ade_files=tuple(files.values())))
        assert row["abstract"] == "A gut."

    def test_mtsamples(self, tmp_path: Path) -> None:
        header = ",description,medical_specialty,sample_name,transcription,keywords"
        rows = [
            '0,"Knee.", Surgery," Knee ","PREOPERATIVE DIAGNOSIS: Torn, meniscus.","a, b"',
            "1,Knee., Orthopedic, Knee ,PREOPERATIVE DIAGNOSIS: Torn meniscus.,",
            "2,Chest., Radiology, Chest ,EXAM: Chest.,x",
            "3,Chest., Letters, Chest ,exam: CHEST,x",
            "4,None., Letters, None ,,x",
        ]
        path = table(tmp_path / "mt.csv", header, *rows)
        (row,) = every(both(mtsamples.rows, path=path, identity="mtsamples"))
        # Orthopedic is no type of document; the chest report has two types; the last has no text.
        assert (row["document_type"], row["description"]) == ("operative report", "Knee.")
        assert row["report"] == "PREOPERATIVE DIAGNOSIS: Torn, meniscus." and "letter" in row["document_types"]

    def test_mtsamples_and_mts_dialog_share_a_split(self, tmp_path: Path) -> None:
        header = "ID,section_header,section_text,dialogue"
        short = "Asthma since childhood and hay fever in spring."  # 8 words: whole
        mts = (
            table(tmp_path / "train.csv", header, f'0,GENHX,"{LONG}.",a', '1,CC,"Cough.",a'),
            table(tmp_path / "test.csv", header, f'0,PASTMEDICALHX,"{short}",a'),
        )
        texts = {
            "train": [f"SUBJECTIVE: {LONG.upper()}, report {i}." for i in range(20)],
            "validation": [f"PMH: {short} Report {i}." for i in range(20)],
            "neither": [f"{LONG}. {short} Report {i}." for i in range(5)],
        }
        lines = [f'{i},d, Letters,n,"{text}",k' for i, text in enumerate(every(texts.values()))]
        path = table(tmp_path / "mt.csv", ",description,medical_specialty,sample_name,transcription,keywords", *lines)
        train, validation = both(mtsamples.rows, path=path, identity="mtsamples", mts=mts)
        assert [r["report"] for r in train] == texts["train"]
        assert [r["report"] for r in validation] == texts["validation"]

    def test_nursesim_names_a_fact_alike_at_every_level(self, tmp_path: Path) -> None:
        vitals = {"hr": 130, "bp_sys": 80, "bp_dia": 50, "spo2": 85, "rr": 30, "temp": 37.5, "avpu": "A"}
        keys = {
            "1": ("relevant_PMH", "time_course"),
            "2": ("relevant_pmh", "time_course"),
            "4": ("relevant PMH", "time course"),
        }
        scenarios = {
            level: [
                {
                    "chief_complaint": f"It hurts {level}.",
                    "vitals": vitals,
                    "history": {"age": 22, "gender": "male", past: None if level == "2" else "gout", onset: "now"},
                }
            ]
            for level, (past, onset) in keys.items()
        }
        path = write(tmp_path / "n.json", json.dumps(scenarios))
        rows = {r["urgency"]: r for r in every(both(nursesim.rows, path=path, identity="n"))}
        signs = "HR 130, systolic BP 80, diastolic BP 50, SpO2 85%, RR 30, T 37.5 C, AVPU A"
        assert rows["1"]["vitals"] == rows["4"]["vitals"] == signs
        assert [rows[level]["history"] for level in "124"] == ["gout", "not documented", "gout"]
        assert rows["1"]["onset"] == rows["4"]["onset"] == "now" and rows["1"]["patient"] == "22-year-old, male"
        with pytest.raises(UserError, match="expected an object with the levels 1, 2"):
            list(nursesim.rows("train", path=write(tmp_path / "n.json", '{"6": []}'), identity="n"))


def test_avey_is_validation_only(tmp_path: Path) -> None:
    record = dict.fromkeys(avey._KEYS.values(), "x") | {"family_history": "-", "correct_diagnosis": "Gout "}
    path = jsonl(tmp_path / "a.jsonl", record, record)
    train, (row,) = both(avey.rows, path=path)
    assert train == [] and (row["diagnosis"], row["family"], row["absent"]) == ("Gout", "none given", "x")


def test_cochrane_lines_must_be_aligned(tmp_path: Path) -> None:
    source = write(tmp_path / "val.source", "One.\nTwo.\n\n")
    target = write(tmp_path / "val.target", "1\n2")
    rows = every(both(cochrane_plain.rows, source=source, target=target, identity="c"))
    assert {(r["abstract"], r["summary"]) for r in rows} == {("One.", "1"), ("Two.", "2")}
    with pytest.raises(UserError, match="has 2 lines, .*val.target has 1: they must be aligned"):
        list(cochrane_plain.rows("train", source=source, target=write(tmp_path / "val.target", "1"), identity="c"))


class TestSynthetic:
    def test_acuity_comes_from_the_tables_and_stands_in_the_note(self) -> None:
        train, validation = both(acuity.rows)
        assert (len(train), len(validation)) == (945, 118)
        for row in train + validation:
            assert normalise(row["problem"]) in normalise(row["note"]) and row["answer"] in acuity.LABELS
        for side in (train, validation):
            shares = sum(r["answer"] == "acute" for r in side) / len(side)
            assert 0.35 < shares < 0.5
        labels = {acuity.label(c) for c in acuity.ACUTE if c.key != "pregnancy"}
        assert labels == {"acute"} and acuity.label(next(c for c in acuity.ACUTE if c.key == "pregnancy")) == ""

    def test_all_names_of_a_thing_are_on_one_side(self) -> None:
        train, validation = both(terms.rows)
        assert len(train) > 150 and len(validation) > 40
        assert not {r["answer"] for r in train} & {r["answer"] for r in validation}
        plain = {r["term"]: r["answer"] for r in train + validation}
        assert plain["GERD"] == "Acid reflux: stomach acid flows back up."
        assert plain["lisinopril"] == "A medicine that lowers blood pressure."
        assert plain["BID"] == "Twice a day."
