"""The one exception that a command shows to a person."""

from schemas.errors import TidegateError

__all__ = ["TidegateError"]
