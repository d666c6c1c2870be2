"""The one exception that means: the user can put this right."""


class InputError(ValueError):
    """Say in one sentence what came, what is allowed and what to do; main exits with 2."""
