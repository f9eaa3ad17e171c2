"""Photo files: depth, profile and metadata survive; defects are one MediaError."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import png
import pytest
import tifffile
from PIL import Image, ImageCms, PngImagePlugin, TiffImagePlugin

from revisage.errors import MediaError, OutputError, RevisageError
from revisage.photo import Photo, encode_photo, read_photo, write_photo
from revisage.photo.metadata import apply_orientation, upright_exif
from revisage.photo.output import Staging, check_output

Pixels = np.ndarray[Any, np.dtype[Any]]
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def smooth(height: int, width: int, channels: int, dtype: str) -> Pixels:
    """A picture whose every channel, row and column differs, and that compresses."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [(x * (3 + c) + y * (5 - c)) / (8.0 * max(height, width)) for c in range(channels)]
    unit = np.clip(np.stack(planes, axis=-1), 0, 1)
    full = {"uint8": 255.0, "uint16": 65535.0}.get(dtype, 1.0)
    out = (unit * full).astype(dtype)
    return out[:, :, 0] if channels == 1 else out


def exif_block(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F] = "Camera maker"
    exif.get_ifd(0x8769)[0x829A] = 0.01  # exposure time
    return exif.tobytes()


LOSSLESS = [
    (ending, dtype, channels)
    for ending, dtypes in {".png": ("uint8", "uint16"), ".tif": ("uint8", "uint16")}.items()
    for dtype in dtypes
    for channels in (1, 2, 3, 4)
] + [(".tif", dtype, channels) for dtype in ("float16", "float32") for channels in (1, 3, 4)]


@pytest.mark.parametrize(("ending", "dtype", "channels"), LOSSLESS)
def test_lossless_formats_keep_every_bit(
    tmp_path: Path, ending: str, dtype: str, channels: int
) -> None:
    pixels = smooth(37, 53, channels, dtype)
    path = tmp_path / f"photo{ending}"
    write_photo(Photo(pixels), path)
    back = read_photo(path)
    assert back.pixels.dtype == pixels.dtype
    np.testing.assert_array_equal(back.pixels, pixels)
    again = tmp_path / f"again{ending}"
    write_photo(back, again)
    np.testing.assert_array_equal(read_photo(again).pixels, pixels)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_is_what_an_independent_reader_and_writer_say(
    tmp_path: Path, channels: int, rng: np.random.Generator
) -> None:
    pixels = rng.integers(0, 65536, (31, 17, channels), dtype=np.uint16)
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    write_photo(Photo(pixels), ours)
    _, _, rows, info = png.Reader(bytes=ours.read_bytes()).asDirect()
    assert info["bitdepth"] == 16
    np.testing.assert_array_equal(np.vstack(list(rows)).reshape(pixels.shape), pixels)
    with theirs.open("wb") as stream:
        png.Writer(17, 31, greyscale=channels < 3, alpha=channels in (2, 4), bitdepth=16).write(
            stream, pixels.reshape(31, -1)
        )
    np.testing.assert_array_equal(read_photo(theirs).pixels.reshape(pixels.shape), pixels)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_is_what_tifffile_reads_and_writes(
    tmp_path: Path, dtype: str, compression: str | None, rng: np.random.Generator
) -> None:
    pixels = (rng.random((40, 30, 3)) * (1 if dtype == "float32" else 250)).astype(dtype)
    ours, theirs = tmp_path / "ours.tif", tmp_path / "theirs.tif"
    write_photo(Photo(pixels, "TIFF", details={"compressed": compression is not None}), ours)
    np.testing.assert_array_equal(tifffile.imread(ours), pixels)
    tifffile.imwrite(theirs, pixels, photometric="rgb", compression=compression)
    np.testing.assert_array_equal(read_photo(theirs).pixels, pixels)


def test_planar_tiff_comes_back_interleaved(tmp_path: Path) -> None:
    pixels = smooth(20, 30, 3, "uint16")
    path = tmp_path / "planar.tif"
    tifffile.imwrite(path, np.moveaxis(pixels, 2, 0), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_photo(path).pixels, pixels)


def test_lzw_tiff_keeps_16_bits(tmp_path: Path, rng: np.random.Generator) -> None:
    """LZW is what Photoshop writes; tifffile alone cannot read it, Pillow alone cuts it."""
    cv2 = pytest.importorskip("cv2")
    pixels = rng.integers(0, 65536, (50, 40, 3), dtype=np.uint16)
    path = tmp_path / "lzw.tif"
    assert cv2.imwrite(str(path), pixels[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    np.testing.assert_array_equal(read_photo(path).pixels, pixels)


def test_large_tiff_of_many_strips(tmp_path: Path) -> None:
    pixels = smooth(900, 700, 3, "uint16")
    path = tmp_path / "large.tif"
    write_photo(Photo(pixels), path)
    np.testing.assert_array_equal(tifffile.imread(path), pixels)


def test_palette_becomes_colour_and_gray_stays_gray(tmp_path: Path) -> None:
    pixels = smooth(16, 16, 3, "uint8")
    Image.fromarray(pixels).quantize(16).save(tmp_path / "palette.png")
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "gray.jpg")
    Image.fromarray(pixels[:, :, 0] > 9).save(tmp_path / "bilevel.png")
    assert read_photo(tmp_path / "palette.png").pixels.shape == (16, 16, 3)
    gray = read_photo(tmp_path / "gray.jpg")
    assert gray.pixels.shape == (16, 16)
    assert read_photo(tmp_path / "bilevel.png").pixels.shape == (16, 16)
    write_photo(gray, tmp_path / "again.jpg")
    with Image.open(tmp_path / "again.jpg") as image:
        assert image.mode == "L"


@pytest.mark.parametrize("quality", [60, 92])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_is_encoded_with_its_own_tables(
    tmp_path: Path, quality: int, subsampling: int
) -> None:
    first, second = tmp_path / "first.jpg", tmp_path / "second.jpg"
    pixels = smooth(64, 80, 3, "uint8")
    Image.fromarray(pixels).save(
        first, quality=quality, subsampling=subsampling, comment=b"hello", progressive=True
    )
    photo = read_photo(first)
    write_photo(photo, second)
    with Image.open(first) as a, Image.open(second) as b:
        assert a.quantization == b.quantization
        assert a.layer == b.layer
        assert b.info["comment"] == b"hello"
        assert b.info["progressive"]
    error = np.abs(read_photo(second).pixels.astype(int) - photo.pixels)
    assert error.mean() < 0.5


ENDINGS = (".jpg", ".png", ".tif", ".webp", ".avif")


@pytest.mark.parametrize("source", ENDINGS)
@pytest.mark.parametrize("target", ENDINGS)
def test_metadata_moves_between_formats_and_the_photo_is_upright_once(
    tmp_path: Path, source: str, target: str
) -> None:
    pixels = smooth(40, 64, 3, "uint8")  # as the sensor saw it; orientation 6 turns it to 64 x 40
    first, second = tmp_path / f"a{source}", tmp_path / f"b{target}"
    settings: dict[str, Any] = {"icc_profile": ICC, "exif": exif_block(6)}
    if source == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        settings["pnginfo"] = info
    elif source == ".tif":
        directory = TiffImagePlugin.ImageFileDirectory_v2()
        directory[700], directory[0x0112], directory[0x010F] = XMP, 6, "Camera maker"
        directory[0x8769] = {0x829A: 0.01}
        settings["tiffinfo"] = directory
    else:
        settings["xmp"] = XMP
    if source == ".webp":
        settings["lossless"] = True
    Image.fromarray(pixels).save(first, **settings)

    photo = read_photo(first)
    assert photo.pixels.shape == (64, 40, 3)
    write_photo(photo, second)
    back = read_photo(second)
    assert back.pixels.shape == (64, 40, 3)
    assert back.icc == ICC
    assert back.xmp is not None
    assert back.xmp.rstrip(b"\x00") == XMP.replace(b'"6"', b'"1"')
    assert back.exif is not None
    exif = Image.Exif()
    exif.load(back.exif)
    assert exif.get(0x0112, 1) == 1
    assert exif[0x010F] == "Camera maker"
    assert float(exif.get_ifd(0x8769)[0x829A]) == pytest.approx(0.01)
    expected = np.rot90(pixels, -1)
    lossy = {".jpg", ".webp", ".avif"}
    worst = 0 if source not in {".jpg", ".avif"} and target not in lossy else 12
    assert int(np.abs(back.pixels.astype(int) - expected).max()) <= worst


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_agrees_with_pillow(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    pixels = smooth(7, 11, 3, "uint8")
    path = tmp_path / "turned.png"
    Image.fromarray(pixels).save(path, exif=exif_block(orientation))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_array_equal(read_photo(path).pixels, expected)
    np.testing.assert_array_equal(apply_orientation(pixels, orientation), expected)


def test_exif_is_patched_in_place() -> None:
    block = exif_block(8).removeprefix(b"Exif\x00\x00")
    orientation, patched = upright_exif(block)
    assert orientation == 8
    assert len(patched) == len(block)
    assert sum(a != b for a, b in zip(block, patched, strict=True)) == 1
    assert upright_exif(patched) == (1, patched)


@pytest.mark.parametrize("junk", [b"", b"II", b"II*\x00\xff\xff\xff\xff" + bytes(20), bytes(64)])
def test_nonsense_exif_is_kept_as_it_is(junk: bytes) -> None:
    assert upright_exif(junk) == (1, junk)


def test_png_text_and_gamma_survive(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", "somebody")
    info.add(b"gAMA", struct.pack(">L", 45455))
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    Image.fromarray(smooth(9, 9, 3, "uint8")).save(first, pnginfo=info, dpi=(300, 300))
    write_photo(read_photo(first), second)
    with Image.open(second) as image:
        assert image.info["Author"] == "somebody"
        assert image.info["gamma"] == pytest.approx(0.45455)
        assert round(image.info["dpi"][0]) == 300


def test_iptc_of_a_jpeg_survives(tmp_path: Path) -> None:
    first, second = tmp_path / "a.jpg", tmp_path / "b.jpg"
    iptc = b"Photoshop 3.0\x008BIM\x04\x04\x00\x00\x00\x00\x00\x09\x1c\x02\x78\x00\x04test\x00"
    marker = b"\xff\xed" + struct.pack(">H", len(iptc) + 2) + iptc
    Image.fromarray(smooth(9, 9, 3, "uint8")).save(first, extra=marker)
    write_photo(read_photo(first), second)
    assert marker in second.read_bytes()


# --- what is refused -----------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(MediaError) as caught:
        read_photo(path)
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def samples() -> dict[str, bytes]:
    """A valid file of each kind, large enough that a cut hurts."""
    rng = np.random.default_rng(1)
    noisy = rng.integers(0, 256, (120, 100, 3), dtype=np.uint8)
    deep = rng.integers(0, 65536, (120, 100, 3), dtype=np.uint16)
    files = {f"8{ending}": encode_photo(Photo(noisy), f"x{ending}") for ending in ENDINGS}
    files["16.png"] = encode_photo(Photo(deep), "x.png")
    files["16.tif"] = encode_photo(Photo(deep), "x.tif")
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "JPEG", progressive=True)
    files["progressive.jpg"] = stream.getvalue()
    stream = io.BytesIO()
    Image.fromarray(noisy).save(stream, "TIFF", compression="tiff_lzw")
    files["lzw.tif"] = stream.getvalue()
    return files


@pytest.mark.parametrize("name", sorted(samples()))
def test_truncated_files_are_errors_never_half_gray(tmp_path: Path, name: str) -> None:
    data = samples()[name]
    path = tmp_path / name
    path.write_bytes(data)
    read_photo(path)
    for share in (0.02, 0.3, 0.6, 0.9, 0.99):
        path.write_bytes(data[: int(len(data) * share)])
        refused(path)


@pytest.mark.parametrize("name", sorted(samples()))
def test_damaged_files_never_raise_anything_but_media_error(tmp_path: Path, name: str) -> None:
    data = samples()[name]
    path = tmp_path / name
    rng = np.random.default_rng(7)
    for _ in range(25):
        damaged = bytearray(data)
        for position in rng.integers(0, min(len(data), 400), 6):
            damaged[position] = rng.integers(0, 256)
        path.write_bytes(bytes(damaged))
        try:
            read_photo(path)
        except MediaError as error:
            assert "\n" not in str(error)  # noqa: PT017 - damage may also go unnoticed


def test_missing_empty_folder_and_foreign_files(tmp_path: Path) -> None:
    assert "no such file" in refused(tmp_path / "missing.jpg")
    empty = tmp_path / "empty.jpg"
    empty.touch()
    assert "empty" in refused(empty)
    assert "folder" in refused(tmp_path)
    text = tmp_path / "text.jpg"
    text.write_text("this is no photo")
    assert "not a photo" in refused(text)
    gif = tmp_path / "anim.gif"
    Image.new("P", (4, 4)).save(gif)
    assert "not a photo" in refused(gif)


def bomb(width: int, height: int) -> bytes:
    """A tiny valid PNG header that claims a huge picture."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">L", len(body)) + name + body + struct.pack(">L", zlib.crc32(name + body))
        )

    header = struct.pack(">LLBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\x00" * 64))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(30_000, 30_000), (70_000, 10), (10, 70_000)])
def test_absurd_sizes_are_refused_before_memory_is_taken(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    path = tmp_path / "bomb.png"
    path.write_bytes(bomb(*size))
    assert "claims" in refused(path)


def test_cmyk_animations_and_several_pages_are_refused_with_the_reason(tmp_path: Path) -> None:
    cmyk = tmp_path / "cmyk.jpg"
    Image.new("CMYK", (8, 8)).save(cmyk)
    assert "CMYK" in refused(cmyk)
    cmyk_tiff = tmp_path / "cmyk.tif"
    Image.new("CMYK", (8, 8)).save(cmyk_tiff)
    assert "CMYK" in refused(cmyk_tiff)
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    for name in ("anim.png", "anim.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:])
        assert "animation" in refused(tmp_path / name)
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    assert "several pictures" in refused(tmp_path / "pages.tif")


@pytest.mark.parametrize(
    ("dtype", "channels", "ending", "words"),
    [
        ("uint16", 3, ".jpg", "depth"),
        ("uint16", 3, ".webp", "depth"),
        ("float32", 3, ".png", "depth"),
        ("uint8", 4, ".jpg", "alpha"),
        ("uint8", 3, ".bmp", "unknown ending"),
    ],
)
def test_nothing_is_lost_silently(
    tmp_path: Path, dtype: str, channels: int, ending: str, words: str
) -> None:
    with pytest.raises(OutputError, match=words):
        write_photo(Photo(smooth(8, 8, channels, dtype)), tmp_path / f"x{ending}")
    assert not list(tmp_path.iterdir())


# --- whole or not at all -------------------------------------------------------------------------


def test_existing_files_need_force(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(b"mine")
    with pytest.raises(OutputError, match="exists already"):
        write_photo(Photo(smooth(4, 4, 3, "uint8")), path)
    assert path.read_bytes() == b"mine"
    write_photo(Photo(smooth(4, 4, 3, "uint8")), path, force=True)
    assert read_photo(path).pixels.shape == (4, 4, 3)
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_nothing_is_left_behind_when_a_later_file_fails(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "deeper"

    def write_two() -> None:
        with Staging() as staging:
            staging.write(folder / "first.txt", b"1")
            staging.write(folder / "first.txt", b"2")

    with pytest.raises(OutputError, match="two results"):
        write_two()
    assert not list(tmp_path.iterdir())


def test_a_name_taken_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"

    def write() -> None:
        with Staging() as staging:
            staging.write(path, b"ours")
            path.write_bytes(b"theirs")

    with pytest.raises(OutputError, match="exist"):
        write()
    assert path.read_bytes() == b"theirs"
    assert list(tmp_path.iterdir()) == [path]


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    with Staging() as staging:
        staging.write(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_read_only_folder_is_one_error(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0o500)
    try:
        if os.access(folder, os.W_OK):
            # root writes anywhere; the kernel's own file system refuses even root
            folder = Path("/proc/self")
        with pytest.raises(RevisageError) as caught:
            write_photo(Photo(smooth(4, 4, 3, "uint8")), folder / "x.png")
        assert "\n" not in str(caught.value)
        assert not list(tmp_path.glob("locked/*"))
    finally:
        (tmp_path / "locked").chmod(0o700)


def test_check_output_finds_a_file_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="not a folder"):
        check_output(tmp_path / "file" / "x.png", force=True)
    with pytest.raises(OutputError, match="is a folder"):
        check_output(tmp_path, force=True)
