"""Which of the kept answers are meant. Pure."""

from msgspec import Struct

from gateway.cache.key import read, scoped, short


class Selection(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answers that fit all that is set: of a scope, of a model, of one key's or one picture's digest."""

    scope: str | None = None
    model: str | None = None
    digest: str | None = None

    @property
    def pattern(self) -> str:
        """A pattern, as Redis understands it, that the keys of all these answers fit, and hardly any other."""
        scope, model = ("*" if name is None else scoped(name) for name in (self.scope, self.model))
        rest = "*" if self.digest is None else f"*{short(self.digest)}*"
        return f"{scope}:{model}:{rest}"

    def holds(self, key: str) -> bool:
        """Whether the answer under that key is meant."""
        parts = read(key)
        return (
            parts is not None
            and (self.scope is None or scoped(self.scope) == parts.scope)
            and (self.model is None or scoped(self.model) == parts.model)
            and (self.digest is None or self.digest == parts.digest or short(self.digest) in parts.pictures)
        )
