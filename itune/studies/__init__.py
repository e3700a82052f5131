"""Studies: arms that differ from a base in one thing each, run over seeds, and what may be concluded from them."""
