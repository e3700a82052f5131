"""Collections of instructions taken whole, from their owners' files. docs/datasets.md says where each is to be had."""
