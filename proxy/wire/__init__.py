"""OpenAI's JSON and its event streams, to and from what the engine needs. Pure."""
