"""Pictures for tests: drawn scenes, whose captions are known."""

import base64
import io

from PIL import Image

from engines.demo import scenes
from engines.demo.scenes import Scene

HELD_OUT_SEED = 2026
SCENES = scenes.held_out(200, seed=HELD_OUT_SEED)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture's file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png(scene: Scene, size: int = 192) -> bytes:
    """A scene as a PNG of `size` pixels a side."""
    return encoded(scenes.draw(scene, size))


def data_url(data: bytes, kind: str = "image/png") -> str:
    """A picture as a data URL."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def message(*urls: str, text: str | None = "Generate a caption for this image.") -> dict[str, object]:
    """A user's message with some text and those pictures."""
    words = [{"type": "text", "text": text}] if text is not None else []
    return {"role": "user", "content": [*words, *({"type": "image_url", "image_url": {"url": url}} for url in urls)]}
