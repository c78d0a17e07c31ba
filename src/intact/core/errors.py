"""The errors that intact raises. Each message names the thing, the fault and the cure."""

__all__ = [
    "CalibrationError",
    "CaptureError",
    "InputError",
    "IntactError",
    "ModelFileError",
    "NotObserved",
    "OutputPathError",
    "PlanError",
    "RuntimeUnavailable",
]


class IntactError(Exception):
    """The base of every error that intact raises for something the user can mend."""


class CaptureError(IntactError):
    """The model cannot be turned into a graph (for example data-dependent control flow)."""


class ModelFileError(IntactError):
    """A model, statistics or plan file is truncated, of another format, or unsafe to read."""


class InputError(IntactError):
    """An input has a wrong name, shape, dtype or value."""


class CalibrationError(IntactError):
    """The calibration data is empty, inadequate or not finite."""


class NotObserved(CalibrationError):
    """A tensor was never reached by the calibration data."""


class PlanError(IntactError):
    """A plan names unknown operators, contradicts itself, or cannot be carried out."""


class OutputPathError(IntactError):
    """A file cannot be written where the user asked for it."""


class RuntimeUnavailable(IntactError):
    """The runtime that was asked for is not installed or cannot run the model."""
