"""Local models as processes of their own, each of which serves OpenAI's dialect on loopback."""
