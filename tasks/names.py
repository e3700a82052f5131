"""What the modules here register, by the first part of its name. Nothing is loaded for it."""

FORMATS = ("t0", "alpaca_en_demo", "gsm8k", "medical_meadow_small", "pubmedqa")
MIXTURES = ("quickstart", "quickstart_held_out", "real_data", "real_data_held_out")
