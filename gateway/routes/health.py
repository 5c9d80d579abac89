"""GET /, /ping, /health, /healthz, /ready, /readyz: is it alive, and can it serve?"""

from litestar import HttpMethod, Response, route
from litestar.handlers import HTTPRouteHandler

from gateway import __version__, wire
from gateway.captioning import Captioner
from gateway.errors import EngineUnavailable
from gateway.process import State

READ = [HttpMethod.GET, HttpMethod.HEAD]


def routes(captioner: Captioner, preloaded: tuple[str, ...]) -> list[HTTPRouteHandler]:
    """The handlers. `preloaded` names the models that must be loaded before it is ready."""
    engines = [captioner.engines[captioner.models[name].name] for name in preloaded]

    @route("/", http_method=READ)
    async def home() -> Response[bytes]:
        """Says what this is and where to go on."""
        return _json(wire.Greeting(version=__version__))

    @route(["/health", "/healthz", "/ping"], http_method=READ)
    async def health() -> Response[bytes]:
        """Answers for as long as the process lives."""
        return _json(wire.Standing(status="ok"))

    @route(["/ready", "/readyz"], http_method=READ)
    async def ready() -> Response[bytes]:
        """Answers 200 once no model that is loaded at the start is still loading."""
        if any(engine.status.state is State.STARTING for engine in engines):
            raise EngineUnavailable("The models that are loaded at the start are still loading. Try again in a second.")
        return _json(wire.Standing(status="ready"))

    return [home, health, ready]


def _json(value: wire.Greeting | wire.Standing) -> Response[bytes]:
    return Response(wire.encode(value), media_type="application/json")
