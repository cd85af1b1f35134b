"""OpenAI's Responses dialect: requests become chats, canonical chat streams its events."""
