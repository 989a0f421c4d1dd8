"""What is common to all errors that a user can act on."""

import copy
import pickle

import pytest

from plusx.engine.step import NonFiniteError
from plusx.engine.stop import Stopped
from plusx.errors import DataError, ImageError, PlusxError


@pytest.mark.parametrize(
    "error",
    [
        DataError("bad", "Repair it."),
        ImageError("a.jpg", "empty"),
        Stopped("stopped", 15),
        NonFiniteError("nan", 3, [1]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_cross_processes_whole(error: PlusxError) -> None:
    error.told_elsewhere = True
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is type(error)
        assert (str(other), other.args, vars(other)) == (str(error), error.args, vars(error))
