"""Errors that a person reads: each says what is wrong, what came, and what to do.

The command line prints the message in one line and ends with `exit_code`
(1: a check or gate failed, 2: wrong usage or input); `--debug` shows the traceback.
"""


class CandidfeedError(Exception):
    """Base of all errors that candidfeed raises on purpose."""

    exit_code = 2


class DataError(CandidfeedError):
    """A log, table or data set can't be used as it is."""


class ConfigError(CandidfeedError):
    """A configuration file or an option is wrong."""


class ReleaseError(CandidfeedError):
    """A release can't be written, or what is on disk is not what was built."""


class GateError(CandidfeedError):
    """A release was made and is not good enough to be published."""

    exit_code = 1


class FetchError(CandidfeedError):
    """A data set could not be fetched, or what came is not what was expected."""


class TrainingError(CandidfeedError):
    """Training can't go on: what it computes is no longer a number."""

    exit_code = 1


class StoreError(CandidfeedError):
    """The store can't be opened, or could not keep or read what it was asked to."""


class StoreBusyError(StoreError):
    """More is waiting to be written than the store takes; ask again a little later."""


class LoadError(CandidfeedError):
    """A service can't be put under load: it is not there, or not what was meant."""
