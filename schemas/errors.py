"""The one exception that a command shows to a person.

It stands here, at the bottom of the imports, so that what `schemas` raises can be
one too; everybody else imports it from `infra.errors`.
"""


class TidegateError(Exception):
    """Something a person can act on.

    The message says what went wrong, where, and what to do about it. It never
    holds personal data: no subject, label, coordinate or payload.
    """

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
        """Exit code: 1 refused or failed, 2 wrong usage, 3 not complete yet."""
