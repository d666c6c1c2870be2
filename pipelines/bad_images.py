"""The account of unreadable images: each named once, and how many are too many."""

from collections.abc import Callable, Iterable

from pipelines.errors import DataError

# This many unreadable images are always borne, in the smallest of data sets.
ALLOWED_BAD_IMAGES = 10


class BadImages:
    """Collect the names of unreadable images.

    Args:
        images: number of images in the split.
        max_fraction: share of them that may be unreadable, and never fewer than 10.
        log: called once with each name.
        known: names that were logged before, as by the run that this one resumes.
    """

    def __init__(
        self,
        images: int,
        max_fraction: float,
        log: Callable[[str], None],
        known: Iterable[str] = (),
    ) -> None:
        self.names: dict[str, None] = dict.fromkeys(known)
        self._images = images
        self._allowed = max(ALLOWED_BAD_IMAGES, int(max_fraction * images))
        self._log = log

    def add(self, name: str) -> None:
        """Note an image; a second time counts for nothing, as in the next epoch."""
        if name not in self.names:
            self.names[name] = None
            self._log(name)

    def check(self) -> None:
        """Raise DataError when there are too many."""
        if len(self.names) > self._allowed:
            raise DataError(
                f"{len(self.names)} of {self._images} images cannot be read, and "
                f"{self._allowed} are allowed; the first is {next(iter(self.names))}."
            )
