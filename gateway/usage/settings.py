"""How usage is configured: where it is kept, and what a model costs."""

from typing import Annotated

from msgspec import Meta, Struct

from gateway.values import Money


class UsageConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where usage is kept when there is no Redis (None: in the user's state folder), and what prices are in."""

    path: Annotated[str, Meta(min_length=1)] | None = None
    currency: Annotated[str, Meta(pattern=r"^\S{1,16}$")] | None = None


class Price(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a thousand pictures or tokens cost."""

    pictures: Money = Money(0)
    prompt_tokens: Money = Money(0)
    completion_tokens: Money = Money(0)

    def of(self, pictures: int, prompt_tokens: int, completion_tokens: int) -> int:
        """What so many cost, exact, in billionths: millionths for a thousand are billionths for one."""
        return (
            pictures * self.pictures + prompt_tokens * self.prompt_tokens + completion_tokens * self.completion_tokens
        )
