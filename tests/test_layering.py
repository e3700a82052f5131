"""Imports point one way, and heavy libraries load only where they are meant to.

    commands -> studies, synth -> training.loop, evaluation -> training.{step,checkpoint,...}, inference, weights
             -> data | models | parallel | training.{losses,optim}  (none of these four imports another)
             -> config dataclasses, batch, errors

Everything here reads the source (ast), so a fault shows without importing anything; one test then asks a real process.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# (prefix of a module's name, rank, room); the longest prefix wins. A module imports its own room and lower ranks only.
# Ranks of 3 and more may also look sideways, at another room of the same rank (but see test_no_cycles).
PLACES = [
    ("itune.errors", 0, "leaves"),
    ("itune.batch", 0, "leaves"),
    ("itune.cache", 0, "leaves"),
    ("itune.memory", 0, "leaves"),
    ("itune.terminal", 0, "leaves"),
    ("itune.storage", 0, "leaves"),
    ("itune.data.config", 0, "leaves"),
    ("itune.models.config", 0, "leaves"),
    ("itune.parallel.config", 0, "leaves"),
    ("itune.parallel.xla_flags", 0, "leaves"),
    ("itune.training.config", 0, "leaves"),
    ("itune.inference.config", 0, "leaves"),
    ("itune.weights.config", 0, "leaves"),
    ("itune.evaluation.config", 0, "leaves"),
    ("itune.studies.config", 0, "leaves"),
    ("itune.synth.config", 0, "leaves"),
    ("itune.config.run", 1, "config"),
    ("itune.parallel.mesh", 1, "rules"),
    ("itune.parallel.gradients", 1, "rules"),
    ("itune.data", 2, "data"),
    ("itune.models", 2, "models"),
    ("itune.parallel", 2, "parallel"),
    ("itune.training.losses", 2, "losses and optim"),
    ("itune.training.optim", 2, "losses and optim"),
    ("itune.config", 3, "config"),
    ("itune.training", 3, "training"),
    ("itune.inference", 3, "inference"),
    ("itune.weights", 3, "weights"),
    ("itune.training.loop", 4, "training.loop"),
    ("itune.training.run", 4, "training.loop"),
    ("itune.training.stacked", 4, "training.loop"),
    ("itune.training.session", 4, "training.loop"),
    ("itune.evaluation", 4, "evaluation"),
    ("itune.costs", 4, "costs"),
    ("itune.studies", 5, "studies"),
    ("itune.synth", 5, "synth"),
]
COMMANDS = 6  # the modules directly in itune/ that PLACES does not name, cli.py among them

SEQIO = ("seqio", "tensorflow", "tensorflow_datasets", "tensorflow_text", "t5", "clu")
JAX = ("jax", "jaxlib", "flax", "optax", "orbax")

# What runs in the processes that prepare data and compute metrics, and so may load SeqIO and TensorFlow.
MAY_IMPORT_SEQIO = {
    *(f"itune.data.{name}" for name in ("registry", "sources", "preprocess", "prepare", "prepare_task", "mixtures")),
    *(f"itune.data.{name}" for name in ("vocabularies", "metrics", "niv2", "promptsource", "ready_tasks", "views")),
    "itune.data.prepare_rows",
    "itune.data.library.tasks",
    *(f"itune.data.collections.{name}" for name in ("alpaca_kin", "flan", "instructions", "medical")),
    *(f"itune.data.collections.{name}" for name in ("open_assistant", "pmc_llama", "suites")),
    "itune.evaluation.metric_worker",
}
# Needs lm-eval, an extra that our lock leaves out; its command loads it when all else is well.
NEEDS_LM_EVAL = "itune.inference.harness"
TASKS_MAY_IMPORT = {"itune", "tasks", "numpy", "yaml"} | set(sys.stdlib_module_names)


@dataclasses.dataclass(frozen=True)
class Import:
    """`source` imports `target` ("itune.data.feed", "seqio") on `line`; `eager`: as soon as the module is imported."""

    source: str
    target: str
    line: int
    eager: bool

    def __str__(self) -> str:
        return f"{path_of(self.source).relative_to(ROOT)}:{self.line} imports {self.target}"


def path_of(module: str) -> Path:
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@functools.cache
def modules(package: str) -> frozenset[str]:
    names = set()
    for path in (ROOT / package).rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        names.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return frozenset(names)


@functools.cache
def lazy_homes(package: str) -> dict[str, str]:
    """{"add_task": "itune.data.registry", ...}, read off the TYPE_CHECKING block of the package's __init__."""
    homes = {}
    for node in ast.walk(ast.parse(path_of(package).read_text("utf-8"))):
        if isinstance(node, ast.If) and _is_type_checking(node):
            for child in ast.walk(node):
                if isinstance(child, ast.ImportFrom) and child.module:
                    homes.update({alias.asname or alias.name: child.module for alias in child.names})
    return homes


def _is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _statements(node: ast.AST, eager: bool = True) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements below `node`, but for those that only type checkers read."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, eager
        elif isinstance(child, ast.If) and _is_type_checking(child):
            for other in child.orelse:
                yield from _statements(other, eager)
        else:
            lazy = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _statements(child, eager and not lazy)


@functools.cache
def imports_of(module: str) -> tuple[Import, ...]:
    known = modules(module.split(".")[0])
    found = []
    for node, eager in _statements(ast.parse(path_of(module).read_text("utf-8"))):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        else:
            base = node.module or ""
            if node.level:
                here = module.split(".")
                package = here if path_of(module).name == "__init__.py" else here[:-1]
                base = ".".join([*package[: len(package) - node.level + 1], *filter(None, [base])])
            targets = [_target(base, alias.name, known | modules("itune")) for alias in node.names]
        found += [Import(module, target, node.lineno, eager) for target in targets if target != "__future__"]
    return tuple(found)


def _target(base: str, name: str, known: frozenset[str]) -> str:
    """The module that `from base import name` loads: a submodule, the home of a lazy name, or `base`."""
    if f"{base}.{name}" in known:
        return f"{base}.{name}"
    if base in known and path_of(base).name == "__init__.py":
        return lazy_homes(base).get(name, base)
    return base


def top(name: str) -> str:
    return name.split(".")[0]


def place(module: str) -> tuple[int, str]:
    fits = [(len(prefix), rank, room) for prefix, rank, room in PLACES if f"{module}.".startswith(f"{prefix}.")]
    if fits:
        return max(fits)[1:]
    return (0, "leaves") if module == "itune" else (COMMANDS, "commands")


def listing(faults: list[Import]) -> str:
    return "\n".join(map(str, faults))


def itune_imports() -> list[Import]:
    return [found for module in sorted(modules("itune")) for found in imports_of(module)]


def test_every_package_has_a_place():
    """A new package must be put into PLACES: a module that is not directly in itune/ is no command."""
    lost = [module for module in modules("itune") if place(module)[1] == "commands" and module.count(".") != 1]
    assert not lost, f"add to PLACES in {Path(__file__).name}: {sorted(lost)}"
    assert len(modules("itune")) > 20, "the test no longer finds the package"


def test_imports_point_one_way():
    faults = []
    for found in itune_imports():
        if top(found.target) != "itune":
            continue
        (rank, room), (target_rank, target_room) = place(found.source), place(found.target)
        sideways = room == target_room or (rank == target_rank and rank >= 3)
        if target_rank > rank or (target_rank == rank and not sideways):
            faults.append(found)
    assert not faults, listing(faults)


def test_no_cycles():
    graph = {
        m: [i for i in imports_of(m) if i.eager and i.target in modules("itune")] for m in sorted(modules("itune"))
    }
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for found in graph[module]:
                if found.target != module:
                    visit(found.target, (*path, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_only_config_imports_gin():
    faults = [i for i in itune_imports() if top(i.target) == "gin" and not f"{i.source}.".startswith("itune.config.")]
    assert not faults, listing(faults)


def test_data_never_imports_jax():
    faults = [i for i in itune_imports() if i.source.startswith("itune.data") and top(i.target) in JAX]
    assert not faults, listing(faults)


def test_models_never_import_the_data_libraries():
    """The other half of the previous test: they meet in Batch."""
    rooms = ("models", "parallel", "losses and optim")
    heavy = (*SEQIO, "grain", "array_record")
    faults = [i for i in itune_imports() if place(i.source)[1] in rooms and top(i.target) in heavy]
    assert not faults, listing(faults)


def test_seqio_and_tensorflow_only_where_data_is_prepared_and_metrics_are_computed():
    faults = [i for i in itune_imports() if top(i.target) in SEQIO and i.source not in MAY_IMPORT_SEQIO]
    assert not faults, listing(faults)


def test_only_its_adapter_imports_lm_eval():
    faults = [i for i in itune_imports() if top(i.target) == "lm_eval" and i.source != NEEDS_LM_EVAL]
    faults += [i for i in itune_imports() if i.target == NEEDS_LM_EVAL and i.eager]
    assert not faults, listing(faults)


def trainer_modules() -> list[str]:
    """All but what runs in the prepare and metrics processes, what tasks/ loads to register tasks, and an extra's."""
    own_process = MAY_IMPORT_SEQIO | {"itune.prepare", NEEDS_LM_EVAL}
    return sorted(m for m in modules("itune") if m not in own_process)


def test_the_trainer_does_not_reach_seqio_by_a_detour():
    """Importing a trainer's module must not load SeqIO through any chain of imports that run on import."""
    for start in trainer_modules():
        chains = {start: (start,)}
        queue = [start]
        while queue:
            module = queue.pop()
            for found in imports_of(module):
                if not found.eager:
                    continue
                assert top(found.target) not in SEQIO, " -> ".join((*chains[module], found.target))
                if found.target in modules("itune") and found.target not in chains:
                    chains[found.target] = (*chains[module], found.target)
                    queue.append(found.target)


@pytest.mark.parametrize(
    ("select", "unwanted"),
    [
        # feed left out: grain imports jax where there is one.
        (lambda module: place(module)[1] == "data" and module != "itune.data.feed", ("jax", "flax", "optax", *SEQIO)),
        (lambda module: place(module)[1] == "config", ("jax", "flax", "optax", *SEQIO)),
        (lambda module: place(module)[0] <= COMMANDS, SEQIO),
    ],
    ids=["data without jax", "config without jax", "trainer without seqio"],
)
def test_a_real_process_agrees(select, unwanted):
    """Third parties may import what we do not: ask sys.modules."""
    names = [module for module in trainer_modules() if select(module)]
    assert names
    code = f"import importlib, sys\nfor name in {names}: importlib.import_module(name)\n"
    code += f"print(*[name for name in {unwanted} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "", f"importing {names} loads {done.stdout.strip()}"


def test_tasks_import_only_the_public_names_of_itune_data():
    public = set(ast.literal_eval(_assignment(path_of("itune.data"), "__all__")))
    faults = []
    for module in sorted(modules("tasks")):
        for node, _ in _statements(ast.parse(path_of(module).read_text("utf-8"))):
            names = [alias.name for alias in node.names]
            where = f"{path_of(module).relative_to(ROOT)}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and top(node.module or "") == "itune":
                if node.module == "itune.errors":
                    continue  # how a task says that the user's data is at fault
                if node.module != "itune.data":
                    faults.append(f"{where} imports from {node.module}")
                faults += [
                    f"{where} imports {name}, which itune.data does not make public"
                    for name in names
                    if name not in public
                ]
            elif isinstance(node, ast.ImportFrom):
                if node.level == 0 and top(node.module or "") not in TASKS_MAY_IMPORT:
                    faults.append(f"{where} imports {node.module}")
            else:
                allowed = [n == "itune.data" or (top(n) != "itune" and top(n) in TASKS_MAY_IMPORT) for n in names]
                faults += [f"{where} imports {name}" for name, good in zip(names, allowed, strict=True) if not good]
    assert not faults, "\n".join(faults)
    assert "add_task" in public


def _assignment(path: Path, name: str) -> ast.expr:
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return node.value
    raise AssertionError(f"{path} assigns no {name}")
