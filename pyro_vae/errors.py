"""The errors that the library raises about what the user gave or about what training did."""


class InputError(Exception):
    """The user's input does not fit; the message is one sentence that says what would fit.

    It does not derive from ValueError, because Pyro appends a table of shapes to every ValueError.
    """


class TrainingError(Exception):
    """The loss or a weight became NaN or infinite; the module has the weights from before.

    Args:
        message: the sentence that says what happened and where.
        epoch: the epoch, from 1.
        step: the step in the epoch, from 1.
        images: the indices of the step's images among the training images.
    """

    def __init__(self, message: str, epoch: int, step: int, images: list[int]) -> None:
        super().__init__(message)
        self.epoch, self.step, self.images = epoch, step, images


class RankError(Exception):
    """One of several processes that train together ended, or cannot be reached."""


BROKEN = (ValueError, RuntimeError)
"""The types of the exceptions that :func:`broken_distribution` reads."""


def broken_distribution(error: Exception) -> str:
    """What torch says of a distribution with invalid parameters or values; "" for another error."""
    text = str(error)
    if text.startswith("linalg.cholesky"):
        return "a covariance is not positive-definite"
    if not text.startswith(("Expected parameter", "Expected value")):
        return ""
    return text.partition(" (Tensor")[0]


def invalid(error: Exception) -> str:
    """The sentence for a distribution with invalid parameters; any other error is raised again."""
    if not (reason := broken_distribution(error)):
        raise error
    return f"a distribution has invalid parameters ({reason})"
