"""Errors that a user can act on: what was given, what is allowed, what to do next.

Anything that is the user's to fix raises a `PlusxError`; the command line prints it in one line and exits with 1.
Our own mistakes are assertions and keep their traceback.
"""

import copyreg
from typing import Any

NEW_RUN = "that takes a new run: another --out, and --weights RUN to start from what this one learnt"


class PlusxError(Exception):
    """A mistake that the user can fix.

    Arguments:
        message: what was given and why it cannot be used, in one line.
        hint: what to do next, in one line; may be empty.

    Attributes:
        told_elsewhere: another process of the run tells it; this one ends in silence.
    """

    told_elsewhere = False

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Between processes as it is: Python would call the class with `args`, and many a child takes others."""
        return copyreg.__newobj__, (type(self), *self.args), self.__dict__  # type: ignore[attr-defined]

    def __str__(self) -> str:
        stop = "" if self.message.endswith((".", "?", "!")) else "."
        return f"{self.message}{stop} {self.hint}".rstrip()


class ConfigError(PlusxError):
    """A configuration that cannot be used; the message lists every problem as `section.field: got …, expected …`."""


class DataError(PlusxError):
    """A data set that cannot be read as what it was given for."""


class ImageError(DataError):
    """One image that cannot be decoded.

    Arguments:
        path: the file, or a name for bytes that came from elsewhere.
        reason: why it cannot be decoded, in a few words.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}", "Run `plusx check` on the data to list every such file.")
        self.path = path
        self.reason = reason


class ModelFileError(PlusxError):
    """A model file or checkpoint that is damaged, foreign, or made for something else."""


class TrainingError(PlusxError):
    """A training run that cannot go on: a loss that is not finite, a full disk, a lost worker."""


LOWER = "Lower optim.lr, or set optim.clip_norm=1, in a new --out."


class DivergedError(TrainingError):
    """A training run whose loss or gradients are NaN or infinite; the same command would end the same way."""

    def __init__(self, message: str, hint: str = LOWER) -> None:
        super().__init__(message, hint)
