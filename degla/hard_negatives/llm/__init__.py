"""Hard negatives written by a language model: prompts, clients, and answers read back."""
