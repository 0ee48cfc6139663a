"""The parser of command lines: what is wrong with one is a UsageError, whose hint names the nearest flag or choice."""

from __future__ import annotations

import argparse
import re
from typing import Any, NoReturn

from base.errors import UsageError
from base.nearest import nearest


class Parser(argparse.ArgumentParser):
    """argparse that raises UsageError and accepts no shortened flags."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raise argparse's message as a UsageError."""
        raise UsageError(f"{self.prog}: {message}", self.hint(message))

    def hint(self, message: str) -> str:
        """How to fix what one of argparse's messages complains about."""
        meant = self._meant(message)
        return " ".join([*(f"did you mean {word}?" for word in meant), f"see {self.prog} --help"])

    def flags(self) -> list[str]:
        """Every long flag, those of subcommands included."""
        found = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                found += [flag for sub in action.choices.values() for flag in sub.flags()]
        return found

    def _meant(self, message: str) -> list[str]:
        """For each unknown flag or choice in a message the one that was probably meant; none for most messages."""
        if choice := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
            close = nearest(choice[1], [name.strip(" '") for name in choice[2].split(",")])
            return [close] if close else []
        meant, flags = [], self.flags()
        for flag in re.findall(r"\s(--[\w.-]+)", message) if "unrecognized arguments:" in message else []:
            longer = next((known for known in flags if known.startswith(flag)), None)
            if close := longer or nearest(flag, flags):
                meant.append(f"{close} instead of {flag}")
        return meant
