"""The tasks that come with itune: `import tasks` registers them all (MIXTURE_OR_TASK_MODULE = "tasks")."""

from tasks import clinic, clinic_public, formats, mixtures

__all__ = ["clinic", "clinic_public", "formats", "mixtures"]
