"""Makes any accepted picture plain: upright, 8-bit RGB on white, its first frame, no metadata, of the planned size.

The work is a list of small steps, each a function from picture to picture; `steps` is that list, and this is why it
stands in this order. What cannot be averaged is made so first: palettes, transparency (whose hidden colours would
show), 16 bits. Then the picture shrinks. What costs time for every pixel and can be done to an average comes last:
turning it, and its profile. The order changes rounding and the sharpest edges of inks, and nothing that a model sees.

This is the one seam to Pillow's parsers; only the decoding worker imports it.
"""

from collections.abc import Callable, Iterable
from functools import cache, partial, reduce
from importlib import import_module
from io import BytesIO
from typing import Any, cast

from PIL import AvifImagePlugin, Image, ImageChops, ImageFile
from PIL.Image import Resampling, Transpose

from gateway.images.header import Format
from gateway.images.plan import Filter, Plan
from gateway.images.profile import to_srgb

Step = Callable[[Image.Image], Image.Image]

AvifImagePlugin.DEFAULT_MAX_THREADS = 1  # a picture gets one processor: the others have pictures of their own

_WHITE = (255, 255, 255)
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # of a TIFF's tags
_KNOWN = frozenset(
    ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "LAB", "I;16", "I;16B"]
)  # modes whose values have a known range; floating-point and 32-bit ones have none
_AVERAGED = frozenset(["L", "RGB", "CMYK"])  # modes whose pixels can be averaged as they are
_FILTERS: dict[Filter | None, Resampling] = {
    None: Resampling.NEAREST,
    "bicubic": Resampling.BICUBIC,
    "bilinear": Resampling.BILINEAR,
}
_UPRIGHT_BY = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
# The parser of exactly the format found, rather than Image.open: no other of Pillow's 40 parsers gets to see the
# bytes, and no limit has to be set for the whole process. JpegImageFile reads the first picture of an MPO, too.
_PARSERS: dict[Format, tuple[str, str]] = {
    "jpeg": ("PIL.JpegImagePlugin", "JpegImageFile"),
    "png": ("PIL.PngImagePlugin", "PngImageFile"),
    "webp": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "gif": ("PIL.GifImagePlugin", "GifImageFile"),
    "avif": ("PIL.AvifImagePlugin", "AvifImageFile"),
    "heic": ("pillow_heif.as_plugin", "HeifImageFile"),
    "tiff": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "bmp": ("PIL.BmpImagePlugin", "BmpImageFile"),
}
_IMPORTED_LATE = ("copy", "PIL.ImageOps", "PIL.ImagePalette", "PIL.TiffImagePlugin")


class MissingDecoder(ImportError):
    """A format is enabled whose decoder is not installed. Its text is a sentence for the operator."""


def prepare(formats: Iterable[Format]) -> None:
    """Imports the decoders of the formats and what Pillow imports late, so that no file has to be opened afterwards.

    Raises:
        MissingDecoder: one of them is not installed.
    """
    Image.preinit()
    for module in _IMPORTED_LATE:
        import_module(module)
    for kind in formats:
        _parser(kind)
        if kind == "heic":
            _settle_heic()


def _settle_heic() -> None:
    """Has HEIC's decoder take one processor, and leave alone what a file holds beside its picture."""
    options: Any = import_module("pillow_heif.options")
    options.DECODE_THREADS = 1
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False


def render(data: bytes, kind: Format, plan: Plan) -> Image.Image:
    """The picture as engines get to see it: RGB, of `plan.size`, without metadata.

    Raises:
        Exception: hostile bytes make Pillow raise nearly anything, of which nothing may be told to a client.
    """
    with _parser(kind)(BytesIO(data)) as image:
        if image.size != plan.stored:
            raise ValueError("two parsers read different sizes")
        return reduce(lambda picture, step: step(picture), steps(plan), cast("Image.Image", image))


def steps(plan: Plan) -> list[Step]:
    """What is done to a picture, in order."""
    return [
        partial(draft, scale=plan.scale),
        scale_key_color,
        load_first_frame,
        refuse_unknown,
        uncover_page,
        straighten_inks,
        reduce_depth,
        put_on_white,
        partial(average, factor=plan.factor),
        partial(resize, plan=plan),
        partial(turn_upright, orientation=plan.orientation),
        bring_to_srgb,
        strip,
    ]


def draft(image: Image.Image, scale: int) -> Image.Image:
    """Has a JPEG decoded at 1/2, 1/4 or 1/8 of its size; a scale of 1 decodes in full."""
    if scale > 1:
        image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
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


def refuse_unknown(image: Image.Image) -> Image.Image:
    """Lets pictures pass whose values are known to be brightness or colours from black to white.

    Raises:
        ValueError: nobody knows what they would look like.
    """
    if image.mode not in _KNOWN:
        raise ValueError("values of an unknown range")
    return image


def uncover_page(image: Image.Image) -> Image.Image:
    """Makes white what a GIF's first frame leaves uncovered; Pillow gives it the first colour of the palette."""
    frame = getattr(image, "dispose_extent", None)
    if frame in (None, (0, 0, *image.size)) or image.has_transparency_data:
        return image
    left, top, right, bottom = cast("tuple[int, int, int, int]", frame)
    width, height = image.size
    picture = image.convert("RGB")
    for rim in ((0, 0, width, top), (0, bottom, width, height), (0, top, left, bottom), (right, top, width, bottom)):
        picture.paste(_WHITE, rim)
    return picture


def straighten_inks(image: Image.Image) -> Image.Image:
    """Puts right the inks of a JPEG without Adobe's mark; Pillow takes all to be stored inverted, as Adobe does."""
    inverted = image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info
    return ImageChops.invert(image) if inverted else image


def reduce_depth(image: Image.Image) -> Image.Image:
    """Scales 16-bit grey to 8 bits. Pillow's own conversion clips, which turns nearly everything white.

    A TIFF's may have 12 bits in 16, or begin with white, of which Pillow takes no notice.
    """
    if not image.mode.startswith("I"):
        return image
    tags = getattr(image, "tag_v2", {})
    deep = image.convert("I")
    grey = deep.point(_to_eight(tags.get(_BITS, (16,))[0], tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO), "L")
    key = image.info.get("transparency")
    if isinstance(key, int):
        grey.putalpha(deep.point([0 if value == key else 255 for value in range(2**16)], "L"))
    grey.info.pop("transparency", None)
    return grey


@cache
def _to_eight(bits: int, white_is_zero: bool) -> list[int]:
    """What 16 bits become, of which so many are used."""
    most = 2**bits - 1
    levels = [min(255, round(value * 255 / most)) for value in range(2**16)]
    return [255 - level for level in levels] if white_is_zero else levels


def put_on_white(image: Image.Image) -> Image.Image:
    """Lays what is transparent on white, as on a page, and turns palettes into their colours."""
    if not image.has_transparency_data:
        return image if image.mode in _AVERAGED else image.convert("RGB")
    layer = image if image.mode == "RGBA" else image.convert("RGBA")
    page = Image.new("RGB", layer.size, _WHITE)
    page.paste(layer, mask=layer)
    page.info = image.info
    return page


def average(image: Image.Image, factor: int) -> Image.Image:
    """Averages whole blocks of pixels."""
    return image.reduce(factor) if factor > 1 else image


def resize(image: Image.Image, plan: Plan) -> Image.Image:
    """Brings the picture to its final size, where it is not of it yet."""
    if image.size == plan.unturned:
        return image
    blocks = plan.scale * plan.factor
    whole = (0, 0, plan.stored[0] / blocks, plan.stored[1] / blocks)  # the rim's blocks may not be full
    return image.resize(plan.unturned, _FILTERS[plan.filter], whole)


def turn_upright(image: Image.Image, orientation: int) -> Image.Image:
    """Applies the orientation that the camera noted."""
    turn = _UPRIGHT_BY.get(orientation)
    return image if turn is None else image.transpose(turn)


def bring_to_srgb(image: Image.Image) -> Image.Image:
    """Applies the picture's profile."""
    return to_srgb(image, image.info.get("icc_profile"))


def strip(image: Image.Image) -> Image.Image:
    """Drops what is not pixels: profiles, comments, places and dates."""
    image.info = {}
    return image


def _parser(kind: Format) -> type[ImageFile.ImageFile]:
    module, name = _PARSERS[kind]
    try:
        return cast("type[ImageFile.ImageFile]", getattr(import_module(module), name))
    except ImportError:
        raise MissingDecoder(
            f"Pictures in the format '{kind}' are enabled in 'images.formats', but their decoder is not installed. "
            "Install altgate[heic], or take the format out."
        ) from None
