"""Readers of public clinical data sets, one a file; tasks/clinic_public.py registers the tasks over them.

Each has `rows(split, ...)`, which reads the owner's files where they lie and yields rows of text with a stable id.
sides.py says which rows are validation, acuity.py and terms.py are the two that read nothing: they come from the
synthetic clinic, for no open set that we know of has them.
"""
