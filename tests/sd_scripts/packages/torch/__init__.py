"""Stands for torch, of which it is asked what it can drive: a CPU."""

__version__ = "2.8.0+cpu"


class cuda:  # noqa: N801
    @staticmethod
    def is_available():
        return False


class version:  # noqa: N801
    hip = None
