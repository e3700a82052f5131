"""The tasks that come with itune: `import tasks` registers them all (MIXTURE_OR_TASK_MODULE = "tasks")."""

from tasks import clinic, formats, mixtures

__all__ = ["clinic", "formats", "mixtures"]
