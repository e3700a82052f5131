"""The tasks that come with itune: `import tasks` makes them known (MIXTURE_OR_TASK_MODULE = "tasks").

Each is registered when it is asked for, by its name or by a mixture that holds it. catalogue.json says which module
registers what; tests/tasks/make_catalogue.py writes it.
"""

import importlib
from pathlib import Path

from itune.data import provide_catalogue, provide_library

_HERE = Path(__file__).parent

provide_catalogue(_HERE / "catalogue.json")
LIBRARY = provide_library(_HERE / "library", derived="tasks.library.derived")

importlib.import_module("tasks.collections").provide_collections()
importlib.import_module("tasks.suites").provide_suites()
