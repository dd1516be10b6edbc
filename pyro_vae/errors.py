"""The errors that the library raises about what the user gave or about what training did."""


class InputError(Exception):
    """The user's input does not fit; the message is one sentence that says what would fit.

    It does not derive from ValueError, because Pyro appends a table of shapes to every ValueError.
    """


class TrainingError(Exception):
    """The loss became NaN or infinite; the module holds the weights of the last good epoch."""
