"""Which of the kept answers are meant. Pure."""

from msgspec import Struct

from gateway.cache.key import scoped
from gateway.cache.stored import Label


class Selection(Struct, frozen=True, kw_only=True):
    """The answers that fit all that is set: of a scope, of a model, of one key's or one picture's digest."""

    scope: str | None = None
    model: str | None = None
    digest: str | None = None

    @property
    def beginning(self) -> str:
        """How the keys of these answers begin."""
        return "" if self.scope is None else f"{scoped(self.scope)}:"

    @property
    def is_by_key(self) -> bool:
        """Whether the key tells, without the answer."""
        return self.model is None and self.digest is None

    def holds(self, label: Label) -> bool:
        """Whether an answer is meant."""
        return (
            label.key.startswith(self.beginning)
            and self.model in (None, label.model)
            and self.digest in (None, label.key.rpartition(":")[2], *label.pictures)
        )
