"""Parser: argparse that complains in one line, with a suggestion; also of train, calibrate and benchmarks."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import NoReturn

from rt_avsac.errors import UserError

MANY = 5  # up to so many choices are listed, of more the closest is named


class Parser(argparse.ArgumentParser):
    """Complains in one line, with a suggestion, instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            choices = [word.strip(" '") for word in wrong.group(2).split(",")]
            message = (
                message[: wrong.start()] + f"unknown choice {wrong.group(1)!r}; {suggestion(wrong.group(1), choices)}"
            )
        raise UserError(message)

    def parse(self, words: Sequence[str]) -> argparse.Namespace:
        found, unknown = self.parse_known_args(words)
        if unknown:
            command: Parser = getattr(found, "parser", self)
            name = next((word for word in unknown if word.startswith("-")), unknown[0]).partition("=")[0]
            raise UserError(f"unknown option {name!r}; {suggestion(name, command.options())} ({command.prog} --help)")
        return found

    def options(self) -> list[str]:
        return [option for action in self._actions for option in action.option_strings]


def suggestion(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close and len(known) > MANY else f"choose from {', '.join(known)}"
