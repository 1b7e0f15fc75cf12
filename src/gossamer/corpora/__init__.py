"""Text sources and the tokenizer; reference means and excerpts travel with a model."""
