"""What can go wrong, by name.  Every message says what was wrong, where, and what to do about it."""


class SparsightError(Exception):
    """Base of every error the package raises on purpose; the command line shows its text alone."""


class UnsupportedModelError(SparsightError):
    """The model is none of the supported families; nothing was changed."""


class PlanError(SparsightError):
    """A plan or run folder is damaged, or does not fit this model; nothing was changed."""


class ImagesError(SparsightError):
    """There is no usable image, or a resolution does not fit the model."""


class LabelsError(SparsightError):
    """Labels or masks do not fit their pictures, or the options given for them."""


class NotFiniteError(SparsightError):
    """NaN or infinity appeared in a model's features."""
