"""What can go wrong, as a tree. Only these and ``index.errors`` reach users.

RetrievalError
├── ConfigError        an option or a configuration file has a value that is not allowed
├── DataError          a data set is missing, empty, or not laid out as expected
├── ImageError         one picture cannot be read
├── CheckpointError    a run folder or a weights file is missing, damaged or of another model
└── TrainingError      training cannot go on: a loss is not finite, no triplet can be formed

Each message says what is wrong, the value found, what is allowed, and what to do.
"""


class RetrievalError(Exception):
    """Base of all errors that the command line shows as one line, without a traceback."""


class ConfigError(RetrievalError, ValueError):
    """An option or a configuration file has a value that is not allowed."""


class DataError(RetrievalError, ValueError):
    """A data set is missing, empty, or not laid out as expected."""


class ImageError(RetrievalError):
    """One picture cannot be read; ``str(error)`` is the reason, without the file's name."""


class CheckpointError(RetrievalError):
    """A run folder or a weights file is missing, damaged or of another model."""


class TrainingError(RetrievalError):
    """Training cannot go on."""
