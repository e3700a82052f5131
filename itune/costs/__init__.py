"""What a run will need on devices that need not be here: memory, time, what is sent between them."""
