"""Tests; the folders mirror the code. `support` holds what several of them share."""
