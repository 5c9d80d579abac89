"""Makes any accepted picture plain: upright, 8-bit RGB on white, its first frame, no metadata, no larger than useful.

The work is a list of small steps, each a function from picture to picture; `steps` is that list. Every engine gets the
same bytes for the same picture, whichever way it came in.
"""

import struct
import zlib
from collections.abc import Callable
from functools import partial, reduce
from io import BytesIO

from PIL import Image
from PIL.Image import Transpose

from gateway.images.decode import Format, opened
from gateway.images.orientation import read_orientation

PIPELINE_VERSION = 1  # part of cache keys: raise it when a step changes what engines get to see

Step = Callable[[Image.Image], Image.Image]

_WHITE = (255, 255, 255)
_MARGIN = 2  # times the model's input side: to shrink no further changes its view by less than JPEG noise
_STORED = 4_000_000  # pixels up to which the way to an engine costs less than to compress
_SIXTEEN_TO_EIGHT = [round(value / 257) for value in range(2**16)]
_UPRIGHT_BY = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}


def normalize(data: bytes, kind: Format, *, floor: int | None, max_pixels: int, param: str) -> bytes:
    """The picture as a PNG, written for speed. Takes the processor for up to seconds: call it in a thread.

    `floor` is the side of the model's input, in pixels; None leaves the picture its size.

    Raises:
        PictureError: `image_too_large` or `image_parse_error`, at `param`.
    """
    with opened(data, kind, max_pixels=max_pixels, param=param) as image:
        return _to_png(reduce(lambda picture, step: step(picture), steps(floor), image))


def steps(floor: int | None) -> list[Step]:
    """What is done to a picture, in order."""
    shrinking: list[Step] = [] if floor is None else [partial(shrink, floor=floor)]
    drafting: list[Step] = [] if floor is None else [partial(draft, floor=floor)]
    return [*drafting, scale_key_color, load_first_frame, turn_upright, reduce_depth, put_on_white, *shrinking, strip]


def draft(image: Image.Image, floor: int) -> Image.Image:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 of its size where that is ample; other formats decode in full."""
    side = _MARGIN * floor
    image.draft(None, (side, side))
    return image


def scale_key_color(image: Image.Image) -> Image.Image:
    """Brings a PNG's transparent colour to the depth that Pillow decodes to; it hands it over at the file's own.

    For 16-bit RGB, Pillow keeps the upper eight bits, so colours that differ below become one.
    """
    key, tile = image.info.get("transparency"), getattr(image, "tile", None)
    match tile[0].args if tile else None, key:
        case "L;2", int():
            image.info["transparency"] = key * 85
        case "L;4", int():
            image.info["transparency"] = key * 17
        case "RGB;16B", tuple():
            image.info["transparency"] = tuple(value >> 8 for value in key)
    return image


def load_first_frame(image: Image.Image) -> Image.Image:
    """Decodes the frame that opening stands at. The others are never looked for: their number is the client's to lie
    about.
    """
    image.load()
    return image


def turn_upright(image: Image.Image) -> Image.Image:
    """Applies the orientation that the camera noted."""
    exif = image.info.get("exif")
    turn = _UPRIGHT_BY.get(read_orientation(exif)) if isinstance(exif, bytes) else None
    return image if turn is None else image.transpose(turn)


def reduce_depth(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey to 8 bits. Pillow's own conversion clips, which turns nearly everything white."""
    if not image.mode.startswith("I"):
        return image
    deep = image.convert("I")
    grey = deep.point(_SIXTEEN_TO_EIGHT, "L")
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(deep.point([0 if value == key else 255 for value in range(2**16)], "L"))
    grey.info.pop("transparency", None)
    return grey


def put_on_white(image: Image.Image) -> Image.Image:
    """Converts to RGB, what is transparent becoming white, as on a page."""
    if not image.has_transparency_data:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    page = Image.new("RGB", layer.size, _WHITE)
    page.paste(layer, mask=layer.getchannel("A"))
    return page


def shrink(image: Image.Image, floor: int) -> Image.Image:
    """Averages whole blocks of pixels, so that both sides stay at least twice `floor`; smaller pictures stay as is."""
    factor = min(image.size) // (_MARGIN * floor)
    return image.reduce(factor) if factor > 1 else image


def strip(image: Image.Image) -> Image.Image:
    """Drops what is not pixels: profiles, comments, places and dates."""
    image.info = {}
    return image


def _to_png(image: Image.Image) -> bytes:
    if image.width * image.height <= _STORED:
        return _stored_png(image)
    target = BytesIO()
    image.save(target, "PNG", compress_level=1)
    return target.getvalue()


def _stored_png(image: Image.Image) -> bytes:
    """An RGB picture as a PNG that is neither filtered nor compressed: a tenth of the work.

    Source: the PNG specification, third edition, sections 5 (chunks), 9.2 (filter type 0) and 11.2.
    """
    pixels, row = image.tobytes(), 3 * image.width
    rows = b"".join([b"\x00" + pixels[at : at + row] for at in range(0, len(pixels), row)])
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows, level=0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, data) for kind, data in chunks)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))
