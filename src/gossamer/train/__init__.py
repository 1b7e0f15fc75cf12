"""Verbs that return a model."""
