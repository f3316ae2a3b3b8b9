"""The base of errors meant for the user."""


class BiGainError(Exception):
    """An error whose one line says what was given, what is accepted and how to mend it.

    The command line prints that line alone and exits with 1.
    """
