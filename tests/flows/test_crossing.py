"""No answer goes to another's question, whatever is shared, kept, left or asked anew at the same time."""

from pathlib import Path

from tests.flows import crossing
from tests.flows.shared import Fake, clients, echo, gateways
from tests.services import running_redis


async def test_mixed_requests_each_get_their_own_answer(tmp_path: Path) -> None:
    """Two gateways with one Redis, two teams, sixty pictures; whole and streamed. First one in ten leaves early,
    then most do, all at once, while Redis answers them."""
    async with Fake().running() as engine, clients() as session:
        engine.always = echo(engine)
        with running_redis(tmp_path) as redis:
            cache, keys = f'redis = "{redis.url}"\nmax_bytes = "100KB"', crossing.KEYS
            async with gateways(tmp_path, engine, 2, cache=cache, settings=keys) as servers:
                ends = await crossing.mixed(session, servers, 3_000, seed=1)
                storm = await crossing.mixed(session, servers, 1_000, seed=2, leaving=0.6)

    assert ends["another's"] == storm["another's"] == 0
    assert ends["its own"] + ends["left"] == 3_000
    assert ends["its own"] > 2_500
    assert min(ends["hit"], ends["miss"], ends["bypass"]) > 100
    assert storm["left"] > 300
    assert storm["its own"] > 300
