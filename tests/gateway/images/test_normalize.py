"""What engines get to see, whatever the picture was before."""

import struct
from io import BytesIO

import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from PIL.PngImagePlugin import PngInfo

from gateway.errors import PictureError
from gateway.images import normalize
from gateway.images.decode import require_format

from .conftest import MakePng

PARAM = "messages[0].content[1].image_url.url"
WHITE, BLACK, RED, BLUE = (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 0, 255)


def plain(data: bytes, floor: int | None = None) -> Image.Image:
    """The picture as an engine gets it."""
    kind = require_format(data, param=PARAM)
    result = normalize.normalize(data, kind, floor=floor, max_pixels=50_000_000, param=PARAM)
    image = Image.open(BytesIO(result), formats=["PNG"])
    image.load()
    assert image.mode == "RGB"
    return image


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    """The picture encoded."""
    target = BytesIO()
    image.save(target, kind, **options)
    return target.getvalue()


def scene(size: tuple[int, int] = (48, 32)) -> Image.Image:
    """A picture that looks different from all eight sides: a corner is red, the one beside it blue."""
    image = Image.new("RGB", size, WHITE)
    image.paste(RED, (0, 0, size[0] // 2, size[1] // 2))
    image.paste(BLUE, (size[0] // 2, 0, size[0], size[1] // 2))
    return image


def difference(one: Image.Image, other: Image.Image) -> float:
    """The largest mean difference of a channel, in levels of 255."""
    assert one.size == other.size
    return max(ImageStat.Stat(ImageChops.difference(one, other)).mean)


def test_the_steps_are_a_list() -> None:
    """The pipeline can be read off, and takes two steps more when it may shrink."""
    names = [getattr(step, "func", step).__name__ for step in normalize.steps(384)]
    assert names == [
        "draft", "scale_key_color", "load_first_frame", "turn_upright", "reduce_depth", "put_on_white", "shrink",
        "strip",
    ]  # fmt: skip
    assert len(normalize.steps(None)) == len(names) - 2


# --- orientation ----------------------------------------------------------------------------------------------------

# How a camera stores an upright picture under each orientation: the inverse of what EXIF says a viewer has to do.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


def tagged(orientation: int) -> bytes:
    """An EXIF block with the orientation."""
    return b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIHHI", 0x0112, 3, 1, orientation, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_stand_upright(kind: str, orientation: int) -> None:
    """All eight orientations, in all three formats that carry one, show the same scene."""
    turn = STORED[orientation]
    stored = scene() if turn is None else scene().transpose(turn)
    options = {"lossless": True} if kind == "WEBP" else {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    image = plain(saved(stored, kind, exif=tagged(orientation), **options))
    assert difference(image, scene()) < 2


def test_orientation_holds_for_shrunk_jpegs() -> None:
    """Decoding at a fraction of the size does not lose the tag."""
    image = plain(saved(scene((640, 480)).transpose(Image.Transpose.ROTATE_90), "JPEG", exif=tagged(6)), floor=60)
    assert image.size == (160, 120)
    assert image.getpixel((10, 10))[0] > 250  # type: ignore[index]
    assert difference(image, scene((160, 120))) < 2


@pytest.mark.parametrize("exif", [tagged(0), tagged(9), tagged(65535), b"Exif\0\0MM\0*", b"Exif\0\0" + bytes(60), b"x"])
@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "PNG"])
def test_broken_exif_is_no_error(kind: str, exif: bytes) -> None:
    """A picture whose tags make no sense is shown as it is stored."""
    assert plain(saved(scene(), kind, exif=exif)).size == (48, 32)


def test_a_looping_exif_is_no_error() -> None:
    """A directory that leads back to itself is read once."""
    loop = b"Exif\0\0MM\0*\0\0\0\x08\0\1" + struct.pack(">HHIII", 0x8769, 4, 1, 8, 8)
    assert plain(saved(scene(), "JPEG", exif=loop)).size == (48, 32)


# --- depth ----------------------------------------------------------------------------------------------------------

RAMP = [round(step * 65535 / 255) for step in range(256)]


@pytest.mark.parametrize(
    ("color", "samples"),
    [(0, lambda v: (v,)), (2, lambda v: (v, v, v)), (4, lambda v: (v, 65535)), (6, lambda v: (v, v, v, 65535))],
)
def test_sixteen_bits_are_scaled(make_png: MakePng, color: int, samples: object) -> None:
    """A ramp from black to white stays one, in all four kinds of 16-bit PNG: its mean is 127, not 255."""
    row = [sample for value in RAMP for sample in samples(value)]  # type: ignore[operator]
    data = make_png((256, 4), depth=16, color=color, rows=[struct.pack(f">{len(row)}H", *row)] * 4)
    image = plain(data)
    assert all(abs(mean - 127.5) < 1 for mean in ImageStat.Stat(image).mean)
    assert [image.getpixel((x, 0)) for x in (0, 128, 255)] == [BLACK, (128,) * 3, WHITE]


@pytest.mark.parametrize(("depth", "row"), [(1, b"\x50"), (2, b"\x1b"), (4, b"\x05\xaf")])
def test_few_bits_are_scaled(make_png: MakePng, depth: int, row: bytes) -> None:
    """1, 2 and 4 bits of grey reach from black to white."""
    image = plain(make_png((4, 1), depth=depth, color=0, rows=[row]))
    values = {1: (0, 255, 0, 255), 2: (0, 85, 170, 255), 4: (0, 85, 170, 255)}[depth]
    assert [image.getpixel((x, 0)) for x in range(4)] == [(value,) * 3 for value in values]


# --- transparency ---------------------------------------------------------------------------------------------------


def test_alpha_is_laid_over_white() -> None:
    """Transparent is white whatever colour hides in it, half-transparent is half white; the rest stays."""
    rgba = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        rgba.putpixel((x, 0), (0, 0, 200, alpha))
    image = plain(saved(rgba, "PNG"))
    assert [image.getpixel((x, 0)) for x in range(3)] == [WHITE, (127, 127, 227), (0, 0, 200)]
    assert difference(plain(saved(rgba, "WEBP", lossless=True, exact=True)), image) <= 1


def test_grey_alpha_is_laid_over_white() -> None:
    """The same for grey with alpha."""
    image = Image.new("LA", (2, 1), (0, 0))
    image.putpixel((1, 0), (40, 255))
    assert [plain(saved(image, "PNG")).getpixel((x, 0)) for x in range(2)] == [WHITE, (40, 40, 40)]


def test_transparent_palettes_are_laid_over_white() -> None:
    """A palette's transparent entry, whether all or part of it, and a GIF's."""
    image = Image.new("P", (3, 1))
    image.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255])
    for x in range(3):
        image.putpixel((x, 0), x)
    for data in (saved(image, "PNG", transparency=1), saved(image, "GIF", transparency=1)):
        shown = plain(data)
        assert [shown.getpixel((x, 0)) for x in range(3)] == [BLACK, WHITE, BLUE]
    partly = plain(saved(image, "PNG", transparency=bytes([255, 0, 128])))
    assert [partly.getpixel((x, 0)) for x in range(3)] == [BLACK, WHITE, (127, 127, 255)]
    opaque = plain(saved(image, "PNG"))
    assert [opaque.getpixel((x, 0)) for x in range(3)] == [BLACK, RED, BLUE]


@pytest.mark.parametrize(
    ("header", "row", "key", "shown"),
    [
        ((1, 0), b"\x50", (0,), (255, 255, 255, 255)),
        ((1, 0), b"\x50", (1,), (0, 255, 0, 255)),
        ((2, 0), b"\x1b", (1,), (0, 255, 170, 255)),
        ((4, 0), b"\x05\xaf", (10,), (0, 85, 255, 255)),
        ((8, 0), b"\0\x40\x80\xc0", (0x40,), (0, 255, 128, 192)),
        ((16, 0), struct.pack(">4H", 0, 0x4040, 0x4041, 0xC0C0), (0x4040,), (0, 255, 64, 192)),
        ((8, 2), b"\0\0\0@@@\x80\x80\x80\xc0\xc0\xc0", (0x40,) * 3, (0, 255, 128, 192)),
        ((16, 2), struct.pack(">12H", *[v for v in (0, 0x4040, 0x8080, 0xC0C0) for _ in "rgb"]), (0x4040,) * 3,
         (0, 255, 128, 192)),
    ],
)  # fmt: skip
def test_a_transparent_colour_is_white(
    make_png: MakePng, header: tuple[int, int], row: bytes, key: tuple[int, ...], shown: tuple[int, ...]
) -> None:
    """PNG's single transparent colour is meant at the file's own depth, and other colours stay."""
    transparency = (b"tRNS", struct.pack(f">{len(key)}H", *key))
    image = plain(make_png((4, 1), depth=header[0], color=header[1], rows=[row], chunks=[transparency]))
    assert [image.getpixel((x, 0)) for x in range(4)] == [(value,) * 3 for value in shown]


# --- colour ---------------------------------------------------------------------------------------------------------


def test_every_mode_becomes_rgb() -> None:
    """Grey, 1-bit, palette and CMYK pictures show their colours."""
    grey = plain(saved(Image.new("L", (4, 4), 90), "JPEG"))
    assert grey.getpixel((1, 1)) == (90, 90, 90)
    assert plain(saved(Image.new("1", (4, 4), 1), "PNG")).getpixel((1, 1)) == WHITE
    assert plain(saved(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)).getpixel((1, 1)) == RED
    assert plain(saved(scene().quantize(8), "PNG")).getpixel((1, 1)) == RED


def test_the_first_frame_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an animation the first frame is decoded, and nobody looks for another."""
    frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE, WHITE)]
    animated = [saved(frames[0], kind, save_all=True, append_images=frames[1:]) for kind in ("GIF", "PNG")]
    animated.append(saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True))

    def seek(self: Image.Image, frame: int) -> None:
        raise AssertionError(f"frame {frame} was looked for")

    for plugin in ("GifImagePlugin.GifImageFile", "PngImagePlugin.PngImageFile", "WebPImagePlugin.WebPImageFile"):
        monkeypatch.setattr(f"PIL.{plugin}.seek", seek)
    for data in animated:
        image = plain(data)
        assert (image.size, image.getpixel((4, 4))) == ((8, 8), RED)


def test_one_picture_is_one_picture_in_every_lossless_format() -> None:
    """The engine's input does not depend on the container."""
    results = {plain(data).tobytes() for data in (
        saved(scene(), "PNG"), saved(scene(), "WEBP", lossless=True), saved(scene().quantize(4), "GIF"),
    )}  # fmt: skip
    assert len(results) == 1


def test_metadata_is_gone() -> None:
    """Neither place nor profile nor comment reaches an engine: only the chunks that a PNG needs are left."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    notes = PngInfo()
    notes.add_text("Comment", "secret")
    data = saved(scene(), "PNG", exif=tagged(1), icc_profile=profile, dpi=(300, 300), pnginfo=notes)
    result = normalize.normalize(data, "png", floor=None, max_pixels=10**6, param=PARAM)
    names, at = [], 8
    while at < len(result):
        length, name = struct.unpack_from(">I4s", result, at)
        names.append(name)
        at += 12 + length
    assert set(names) == {b"IHDR", b"IDAT", b"IEND"}


# --- size -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "floor", "shrunk"),
    [
        ((4000, 3000), None, (4000, 3000)),
        ((1600, 1200), 300, (800, 600)),
        ((1600, 1199), 300, (1600, 1199)),
        ((1999, 1801), 300, (667, 601)),
        ((9000, 100), 50, (9000, 100)),
        ((64, 64), 384, (64, 64)),
        ((64, 48), 1, (3, 2)),
    ],
)
def test_shrinking_keeps_twice_the_floor(size: tuple[int, int], floor: int | None, shrunk: tuple[int, int]) -> None:
    """Whole blocks are averaged, as long as both sides stay at least twice the model's."""
    assert plain(saved(Image.new("L", size, 200), "PNG"), floor).size == shrunk


@pytest.mark.parametrize(
    ("size", "floor", "shrunk"),
    [((1600, 1200), 150, (400, 300)), ((1590, 1201), 150, (398, 301)), ((640, 500), 125, (320, 250))],
)
def test_jpegs_are_decoded_small(
    size: tuple[int, int], floor: int, shrunk: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A JPEG is never decoded larger than it needs to be, and ends up no smaller than others."""
    decoded: list[tuple[int, int]] = []
    load = normalize.load_first_frame

    def noting(image: Image.Image) -> Image.Image:
        decoded.append(load(image).size)
        return image

    monkeypatch.setattr(normalize, "load_first_frame", noting)
    assert plain(saved(Image.new("L", size, 200), "JPEG"), floor).size == shrunk
    assert decoded == [shrunk]


def test_shrinking_is_near_lossless() -> None:
    """What the model sees after its own resize is the same but for about a level of 255."""
    size, side = (1600, 1200), 100
    noise = Image.merge("RGB", [Image.effect_noise(size, 60).resize((200, 150)).resize(size) for _ in "rgb"])
    for data in (saved(noise, "PNG"), saved(noise, "JPEG", quality=95)):
        full, small = (plain(data, floor).resize((side, side), Image.Resampling.BICUBIC) for floor in (None, side))
        assert difference(full, small) < 1


# --- errors ---------------------------------------------------------------------------------------------------------


def test_damage_found_while_decoding_is_translated() -> None:
    """Pillow decodes late; what it finds then is a damaged picture as well."""
    data = saved(scene(), "JPEG")
    with pytest.raises(PictureError) as caught:
        plain(data[: len(data) * 3 // 4])
    assert caught.value.code == "image_parse_error"
