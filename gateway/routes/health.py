"""GET /, /health, /ready and their other spellings: what is this, is it alive, and can it serve?"""

from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.types import Scope

from gateway import __version__, wire
from gateway.captioning import Captioner
from gateway.errors import EngineUnavailable

READ = [HttpMethod.GET, HttpMethod.HEAD]
ALIVE = ["/health", "/v1/health", "/healthz", "/ping"]
READY = ["/ready", "/v1/ready", "/readyz"]
OPEN_PATHS = frozenset([*ALIVE, *READY])  # for whoever looks after the machine, who has no key


def routes(captioner: Captioner, preloaded: tuple[str, ...]) -> list[HTTPRouteHandler]:
    """The handlers. `preloaded` names the models that must be loaded before it is ready."""
    engines = [captioner.engines[captioner.models[name].name] for name in preloaded]

    @route("/", http_method=READ)
    async def home() -> Response[bytes]:
        """Says what this is and where to go on."""
        return _json(wire.Greeting(version=__version__))

    @route(ALIVE, http_method=READ)
    async def health() -> Response[bytes]:
        """Answers for as long as the process lives."""
        return _json(wire.Standing(status="ok"))

    @route(READY, http_method=READ)
    async def ready(scope: Scope) -> Response[bytes]:
        """Answers 200 once every model that is loaded at the start has been there, until the server is to end."""
        if "ending" in scope["state"]:
            raise EngineUnavailable("The server is shutting down.")
        if not all(engine.status.can_serve for engine in engines):
            # Which ones is for those who have a key.
            raise EngineUnavailable("Not every model that is loaded at the start is there. GET /v1/models tells more.")
        return _json(wire.Standing(status="ready"))

    return [home, health, ready]


def _json(value: wire.Greeting | wire.Standing) -> Response[bytes]:
    return Response(wire.encode(value), media_type="application/json")
