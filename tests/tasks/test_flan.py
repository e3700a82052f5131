"""FLAN's mixtures: the papers' weights, halves and caps, over the library and made-up files of the owners' layouts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.tasks.test_contract import run

Rates = dict[str, tuple[float, str]]
SHARES = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
RTE_ROWS = 8  # in tests/tasks/rows


@pytest.fixture(scope="module")
def mixtures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Rates]:
    folder = tmp_path_factory.mktemp("flan")
    found: dict[str, Rates] = json.loads(run("-m", "tests.tasks.flan_world", str(folder)).splitlines()[-1])
    return found


def part_of(task: str, cluster: str) -> str:
    for part, below in (("t0", "p3/"), ("niv2", "niv2/")):
        if task.startswith(below):
            return part
    return {"chain_of_thought": "cot", "dialog": "dialog"}.get(cluster, "flan2021")


def share(rates: Rates, *names: str) -> float:
    return sum(rates[name][0] for name in names if name in rates) / sum(rate for rate, _ in rates.values())


def test_flan2022_has_the_papers_weights(mixtures: dict[str, Rates]) -> None:
    for name, parts in (("flan2022", list(SHARES)), ("flan2022_library", ["flan2021", "cot", "dialog"])):
        rates = mixtures[name]
        whole = sum(SHARES[part] for part in parts)
        for part in parts:
            of_part = [task for task, (_, cluster) in rates.items() if part_of(task, cluster) == part]
            assert share(rates, *of_part) == pytest.approx(SHARES[part] / whole, rel=1e-9), (name, part)


@pytest.mark.parametrize("name", ["flan2022", "muffin", "cot", "dialog"])
def test_a_data_set_is_half_few_shot_half_with_options_and_inverted_for_0_3(
    mixtures: dict[str, Rates], name: str
) -> None:
    rates = mixtures[name]
    data_sets = {task.partition("/")[0] for task in rates} - {"p3", "niv2"}
    assert len(data_sets) >= {"cot": 6, "dialog": 3}.get(name, 50)
    for data_set in data_sets:
        r = {task.partition("/")[2]: rate for task, (rate, _) in rates.items() if task.startswith(f"{data_set}/")}
        few = sum(rate for variant, rate in r.items() if variant.startswith("fs"))
        assert few == pytest.approx(sum(r.values()) / 2)
        inverted = sum(rate for variant, rate in r.items() if variant.endswith("inv"))
        assert inverted == pytest.approx(0.3 * (sum(r.values()) - inverted)), data_set
        if "zs_opt" in r:
            assert r["zs_opt"] == pytest.approx(r["zs"]) and r["fs_opt"] == pytest.approx(r["fs"])
        assert any(variant.endswith("_cot") for variant in r) == (rates[f"{data_set}/inv"][1] == "chain_of_thought")


def test_flan2021_is_zero_shot_with_inversions_by_their_number(mixtures: dict[str, Rates]) -> None:
    rates = mixtures["flan2021"]
    assert not any("/fs" in task or "_cot" in task for task in rates)
    assert {cluster for _, cluster in rates.values()}.isdisjoint({"chain_of_thought", "dialog"})
    assert rates["rte/zs_opt"][0] + rates["rte/inv"][0] == pytest.approx(RTE_ROWS)
    assert rates["rte/zs_opt"][0] / rates["rte/inv"][0] == pytest.approx(10 / 3)  # wordings of each
    assert "rte/zs" not in rates and "xsum/zs" in rates


def test_a_cluster_goes_with_its_relatives(mixtures: dict[str, Rates]) -> None:
    alone = {cluster for _, cluster in mixtures["flan2021/nli"].values()}
    without = {cluster for _, cluster in mixtures["flan2021/without_nli"].values()}
    every = {cluster for _, cluster in mixtures["flan2021"].values()}
    assert alone == {"nli"} and every - without == {"nli", "paraphrase"} and len(every) == 12


def test_owners_files_are_taken_in_and_mmlu_is_left_out(mixtures: dict[str, Rates]) -> None:
    assert mixtures["niv2"] == {
        "niv2/task001_films_sentiment": [3.0, "sentiment_analysis"],
        "niv2/task002_films_questions": [7.0, "question_generation"],
    }
    assert mixtures["t0"] == {f"p3/ag_news/{name}": [8.0, "miscellaneous"] for name in ("about", "topic")}
    of_t0 = {task: rate for task, (rate, _) in mixtures["flan2022"].items() if task.startswith("p3/")}
    assert set(of_t0) == {f"p3/ag_news/{name}" for name in ("about", "about/fs", "topic", "topic/fs")}
    assert len(set(of_t0.values())) == 1, "half zero-shot, half few-shot"


def test_caps_are_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    from itune.data import registry

    class Source:
        def __init__(self, rows: int):
            self.rows = rows

        def num_input_examples(self, split: str) -> int:
            assert split == "train"
            return self.rows

    rate = registry.rate_by_examples(3_000, share=0.5)
    assert (rate(Source(100)), rate(Source(10**6))) == (50.0, 1500.0)  # type: ignore[arg-type]


def test_what_is_not_here_says_what_is_missing(tmp_path: Path) -> None:
    code = (
        "import tasks\nfrom itune.data import registry\nfrom itune.errors import UserError\n"
        "for name in ('flan2022', 't0', 'niv2', 'niv2_train', 'niv2/task1', 'dolly', 'flan2022_published', 'oasst1'):\n"
        "    try: registry.mixture_info(name)\n"
        "    except UserError as error: print(error)\n"
    )
    lines = run("-c", code).splitlines()
    assert len(lines) == 8 and all("is not available" in line and "docs/datasets.md" in line for line in lines)
    assert "$ITUNE_DATA_DIR/collections/promptsource" in lines[0]
    lines = run("-c", code, ITUNE_DATA_DIR=str(tmp_path)).splitlines()
    assert len(lines) == 8 and all(f"{tmp_path}/collections/" in line for line in lines)


def test_show_prints_the_papers_shares_beside_ours() -> None:
    rows = {"ITUNE_LIBRARY_DIR": str(Path(__file__).parent / "rows"), "ITUNE_LIBRARY_FROM": "files"}
    lines = run("-m", "itune.tasks", "show", "flan2021", **rows).splitlines()
    nli = next(line for line in lines if line.startswith("nli "))
    here, paper = (float(cell.rstrip("%")) for cell in nli.split()[1:3])
    assert paper == 11.3 and 5 < here < 25
    assert any(line.startswith("paper: Wei et al. 2021") for line in lines)
