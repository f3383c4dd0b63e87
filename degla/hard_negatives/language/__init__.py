"""English for the rules and the checks: word classes, inflection, noun phrases, paraphrases."""
