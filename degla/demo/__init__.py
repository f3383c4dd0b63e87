"""A model at work on single images: scores of captions, explanations of them, and the web page of ``degla-try``."""
