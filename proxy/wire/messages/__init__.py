"""Anthropic's Messages dialect: requests, answers, streams and errors."""
