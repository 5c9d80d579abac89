"""The requests that are sent."""

import base64
import io
import json
import random

from PIL import Image

MODEL = "nothing"
SIZES = {"161 KB": ((1024, 768), 161_000), "1.6 MB": ((2000, 1500), 1_600_000)}  # pixels, about so many bytes
NAMES = ("text", *SIZES)


def body(name: str) -> bytes:
    """The request of that name; the same bytes every time."""
    words = {"type": "text", "text": "Generate a caption for this image."}
    parts = [{"type": "image_url", "image_url": {"url": _data_url(name)}}] if name in SIZES else []
    return json.dumps({"model": MODEL, "messages": [{"role": "user", "content": [*parts, words]}]}).encode()


def _data_url(name: str) -> str:
    size, wanted = SIZES[name]
    return f"data:image/jpeg;base64,{base64.b64encode(_jpeg(size, wanted)).decode()}"


def _jpeg(size: tuple[int, int], wanted: int) -> bytes:
    """Soft colours under a grain, as photographs have it; the grain is made so strong that the file has its size."""
    draw = random.Random(1)
    soft = Image.frombytes("RGB", (40, 30), draw.randbytes(3600)).resize(size, Image.Resampling.BICUBIC)
    grain = Image.frombytes("L", size, draw.randbytes(size[0] * size[1])).convert("RGB")
    low, high = 0.0, 1.0
    for _ in range(12):
        strength = (low + high) / 2
        target = io.BytesIO()
        Image.blend(soft, grain, strength).save(target, "JPEG", quality=85)
        low, high = (strength, high) if target.tell() < wanted else (low, strength)
    return target.getvalue()
