"""The one exception that is the user's to mend."""


class UserError(ValueError):
    """A mistake in a config, a command or a data folder; its message of one or two lines says what and how to mend it.

    The command line prints the message alone, without a traceback, and exits with status 2.
    """
