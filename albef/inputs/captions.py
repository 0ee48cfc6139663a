"""Cleaning of captions and questions, for users of the model; see `samples.captions` for the rules."""

from samples.captions import clean_caption, clean_question

__all__ = ["clean_caption", "clean_question"]
