"""What can go wrong with a gallery, as a tree. Nothing else leaves this package on bad input.

GalleryError
├── NotAGallery        there is no gallery at a path, or it is of an unknown format
├── DamagedGallery     its files do not agree with what was committed
├── GalleryLocked      another process is writing
├── IndexKeyError      an index key is unknown, or does not go with the metric
├── BudgetError        no index keeps to the limits on memory, time and recall
├── VectorError        vectors or queries have a wrong shape, or values that are not finite
├── ModelMismatch      vectors of one model meet a gallery of another
└── FilterError        a --where expression cannot be understood

Each message says what is wrong, the value found, what is allowed, and what to do.
"""


class GalleryError(Exception):
    """Base of all errors about galleries."""


class NotAGallery(GalleryError):
    """There is no gallery at a path, or it is of an unknown format."""


class DamagedGallery(GalleryError):
    """Files of a gallery do not agree with what was committed."""


class GalleryLocked(GalleryError):
    """Another process is writing to the gallery."""


class IndexKeyError(GalleryError):
    """An index key is unknown, or does not go with the metric."""


class BudgetError(GalleryError):
    """No index keeps to the limits on memory, time and recall."""


class VectorError(GalleryError):
    """Vectors or queries have a wrong shape, or values that are not finite."""


class ModelMismatch(GalleryError):
    """Vectors of one model meet a gallery of another."""


class FilterError(GalleryError):
    """A filter expression cannot be understood."""
