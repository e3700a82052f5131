"""A generator of synthetic clinical encounters, pure Python. Start at items.py; tasks/clinic.py registers the tasks.

drugs, conditions, procedures   tables, written for teaching the form of clinical text; no medical reference
encounter                       who has what: facts, safety rules, the urgency rule
wording                         the two pools of wordings, train and validation
notes, questions, answers       notes from facts, questions about them, and what a good answer is
items                           the rows of each task
"""
