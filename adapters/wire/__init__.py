"""What providers speak, to and from OpenAI's chat completions. Pure."""
