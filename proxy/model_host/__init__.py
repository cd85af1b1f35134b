"""One process that decides which local models are loaded, for all workers together."""
