"""What clients say and hear, in each dialect, to and from what the engine needs. Pure."""
