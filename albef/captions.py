"""Cleaning of captions and questions, for users of the model; `samples.captions` says what it does."""

from samples.captions import clean_caption, clean_question

__all__ = ["clean_caption", "clean_question"]
