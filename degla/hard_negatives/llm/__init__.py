"""Hard negatives by a language model: prompts, the HTTP client, and batch files."""
