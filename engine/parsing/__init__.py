"""From what a model writes to content, reasoning and tool calls, and from declared tools to what a model reads."""
