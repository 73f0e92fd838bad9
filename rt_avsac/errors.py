"""The errors a user can cause or meet, each with the exit code of the command line."""

from __future__ import annotations

import re

COMPILER = re.compile(r":\d+:\d+: (fatal )?error: ")  # how gcc, clang and nvcc say it


class UserError(Exception):
    """Something asked for cannot be had. The message is one line: what failed, asked X, got Y, what to do."""

    exit_code = 2


class SourceError(UserError):
    """A camera, microphone or file cannot be opened, or was lost."""

    exit_code = 3


class ModelError(UserError):
    """A checkpoint or an engine bundle is missing, corrupt or made for another machine."""

    exit_code = 2


class AddressError(UserError):
    """An address cannot be bound or connected: taken, not ours, or (`BadAddressError`) not an address."""

    exit_code = 4


class BadAddressError(AddressError):
    """Not an address: bad input, unlike one that is taken."""

    exit_code = 2


class DiskError(UserError):
    """A file cannot be written: the disk is full, or the folder is not ours."""

    exit_code = 5


def reason(error: BaseException) -> str:
    """The one line of a library's error that says what was wrong; what stands before it says where it happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if compiler := next((line for line in lines if COMPILER.search(line)), None):
        return compiler
    said = [line for line in lines if not line.startswith(("Exception from ", "Check '"))] or lines
    return said[0] if said else type(error).__name__
