"""How adapters reach a provider: connections, credentials, and what all over HTTP do alike."""
