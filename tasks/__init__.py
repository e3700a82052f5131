"""The tasks that come with itune: `import tasks` makes them known (MIXTURE_OR_TASK_MODULE = "tasks").

Each is registered when it is asked for, by its name or by a mixture that holds it.
"""

from pathlib import Path

from itune.data import provide_library, provide_module
from tasks.names import FORMATS, MIXTURES

provide_module(["clinic"], "tasks.clinic")
provide_module(FORMATS, "tasks.formats")
provide_module(MIXTURES, "tasks.mixtures")
LIBRARY = provide_library(Path(__file__).parent / "library", derived="tasks.library.derived")
