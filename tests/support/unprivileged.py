"""A lack of permission, also where the tests run as root, which ignores permissions."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

NOBODY = 65_534


@contextmanager
def as_ordinary_user() -> Iterator[None]:
    """Within the context, the process reads and writes files as a user that is not root."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)
