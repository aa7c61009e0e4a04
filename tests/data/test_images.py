from __future__ import annotations

import io
import resource
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, features
from PIL.PngImagePlugin import PngInfo

from tglo.data.errors import ImageError
from tglo.data.images import cover_and_crop, decode_image, to_tensor

RANDOM = np.random.default_rng(0)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def random_image(height: int, width: int) -> Image.Image:
    return Image.fromarray(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def fit_to_bucket(
    image: Image.Image, bucket: tuple[int, int]
) -> tuple[torch.Tensor, tuple[int, int], tuple[int, int]]:
    cropped, crop, original = cover_and_crop(image, bucket)
    return to_tensor(cropped), crop, original


def smooth_image(height: int, width: int) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = [255 * (x + 0.5) / width, 255 * (y + 0.5) / height, 0 * x]
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def test_an_image_of_the_buckets_size_is_exact():
    image = random_image(24, 40)
    pixels, crop, original = fit_to_bucket(image, (24, 40))
    assert pixels.dtype == torch.float32 and pixels.shape == (3, 24, 40)
    assert (crop, original) == ((0, 0), (24, 40))
    back = ((pixels + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(back, np.asarray(image))
    assert pixels.min() >= -1 and pixels.max() <= 1


def test_white_and_black_are_one_and_minus_one():
    assert fit_to_bucket(Image.new("RGB", (8, 8), "white"), (8, 8))[0].eq(1).all()
    assert fit_to_bucket(Image.new("RGB", (8, 8), "black"), (8, 8))[0].eq(-1).all()


@pytest.mark.parametrize(
    ("size", "bucket", "crop"),
    [
        ((100, 200), (50, 50), (0, 25)),  # scaled to 50 x 100
        ((200, 100), (50, 50), (25, 0)),
        ((10, 10), (40, 20), (0, 10)),  # enlarged to 40 x 40
        ((64, 64), (64, 64), (0, 0)),
        ((64, 80), (64, 64), (0, 8)),  # cropped only
        ((333, 500), (64, 96), (0, 0)),
    ],
)
def test_cover_and_centre_crop(size, bucket, crop):
    pixels, found, original = fit_to_bucket(smooth_image(*size), bucket)
    assert pixels.shape == (3, *bucket) and original == size and found == crop
    # the red ramp runs left to right: the crop's centre is the image's centre
    centre = pixels[0, :, bucket[1] // 2 - 1 : bucket[1] // 2 + 1].mean()
    assert abs(float(centre)) < 0.05


def test_no_resampling_where_only_the_crop_is_needed():
    image = random_image(32, 40)
    pixels, crop, _ = fit_to_bucket(image, (32, 32))
    expected = fit_to_bucket(image.crop((4, 0, 36, 32)), (32, 32))[0]
    assert crop == (0, 4) and torch.equal(pixels, expected)


@pytest.mark.parametrize("size", [(1, 5000), (5000, 1), (3, 4000)])
def test_a_thin_image_takes_no_gigabytes(size):
    """A row of 5,000 pixels would be 5,120,000 pixels wide and 1,024 high: 11 GB."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    pixels, crop, original = fit_to_bucket(smooth_image(*size), (1024, 1024))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert pixels.shape == (3, 1024, 1024) and original == size
    assert max(crop) == (round(max(size) * 1024 / min(size)) - 1024) // 2 and min(crop) == 0
    assert grown < 200_000  # KiB


@pytest.mark.parametrize("size", [(40, 1300), (900, 30), (33, 32 * 40)])
def test_the_crop_of_a_thin_image_is_that_of_the_whole(size):
    image = random_image(*size)
    found, crop, _ = cover_and_crop(image, (32, 32))
    scale = 32 / min(size)
    height, width = (max(32, round(side * scale)) for side in size)
    whole = image.resize((width, height), Image.Resampling.LANCZOS)
    top, left = crop
    expected = np.asarray(whole.crop((left, top, left + 32, top + 32)), dtype=int)
    assert width * height > 16 * 32 * 32
    assert np.abs(np.asarray(found, dtype=int) - expected).max() <= 1


def test_downscaling_is_antialiased():
    stripes = np.zeros((128, 128, 3), np.uint8)
    stripes[:, ::2] = 255
    pixels, _, _ = fit_to_bucket(Image.fromarray(stripes), (16, 16))
    assert pixels.abs().max() < 0.05  # grey, not moiré


def test_exif_orientation_is_honoured():
    image = smooth_image(16, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn
    turned = decode_image(encoded(image, "PNG", exif=exif))
    assert turned.size == (16, 32)
    assert np.array_equal(np.asarray(turned), np.rot90(np.asarray(image), -1))


def test_transparency_is_laid_on_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert decode_image(encoded(clear)).getpixel((0, 0)) == (255, 255, 255)
    half = Image.new("LA", (4, 4), (0, 51))
    assert decode_image(encoded(half)).getpixel((0, 0)) == (204, 204, 204)
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([9, 9, 9, 200, 0, 0] + [0] * 762)
    assert decode_image(encoded(palette)).getpixel((0, 0)) == (200, 0, 0)
    assert decode_image(encoded(palette, transparency=1)).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "value"), [("L", 51), ("1", 255), ("CMYK", (0, 0, 0, 204))])
def test_other_modes_become_rgb(mode, value):
    data = encoded(Image.new(mode, (4, 4), value), "TIFF")
    grey = 255 if mode == "1" else 51
    assert decode_image(data).getpixel((0, 0)) == (grey, grey, grey)


def test_sixteen_bits_are_scaled_not_clipped():
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = decode_image(encoded(Image.fromarray(values)))
    assert np.asarray(image)[0, :, 0].tolist() == [0, 1, 128, 255]
    with pytest.raises(ValueError, match="floating-point pixels"):
        decode_image(encoded(Image.new("F", (4, 4)), "TIFF"))


def test_jpeg_and_webp_decode():
    for kind in ("JPEG", "WEBP"):
        image = decode_image(encoded(smooth_image(16, 24), kind))
        assert image.size == (24, 16) and image.mode == "RGB"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "AVIF", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("white", "black", "black")]
    image = decode_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert image.size == (16, 16) and np.asarray(image).min() > 250


def test_avif_decodes():
    image = decode_image(encoded(smooth_image(32, 48), "AVIF", quality=95))
    assert image.size == (48, 32) and image.mode == "RGB"
    expected = np.asarray(smooth_image(32, 48), dtype=int)
    assert np.abs(np.asarray(image, dtype=int) - expected).mean() < 4


def test_formats_that_are_not_read_are_named():
    box = b"\0\0\0\x18ftyp%s" + bytes(64)
    with pytest.raises(ImageError, match="HEIC is not read; convert it to PNG, JPEG, WebP or AVIF"):
        decode_image(box % b"heic")
    if not features.check("avif"):
        with pytest.raises(ImageError, match="AVIF, which this Pillow was built without"):
            decode_image(box % b"avif")
    with pytest.raises(ImageError, match="no known image format"):
        decode_image(b"%PDF-1.4")


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("after", [False, True])
def test_text_in_a_png_may_be_long(compressed, after):
    """Prompts and workflows are written there; the pixels are what they are."""
    image = random_image(8, 8)
    text = PngInfo()
    long = b"x" * 2**21
    kind, content = (b"zTXt", b"\0" + zlib.compress(long)) if compressed else (b"tEXt", long)
    text.add(kind, b"workflow\0" + content, after_idat=after)
    text.add_itxt("prompt", "y" * 2**21, zip=compressed)
    decoded = decode_image(encoded(image, pnginfo=text))
    assert np.array_equal(np.asarray(decoded), np.asarray(image))


def test_the_orientation_survives_long_text():
    text, exif = PngInfo(), Image.Exif()
    text.add_text("workflow", "x" * 2**21, zip=True)
    exif[0x0112] = 6
    assert decode_image(encoded(smooth_image(16, 32), exif=exif, pnginfo=text)).size == (16, 32)


def test_a_cut_png_with_long_text_is_still_refused():
    text = PngInfo()
    text.add_text("workflow", "x" * 2**21, zip=True)
    data = encoded(random_image(64, 64), pnginfo=text)
    with pytest.raises(ImageError, match="cannot be decoded"):
        decode_image(data[:-3000])


def test_a_bucket_has_a_size():
    with pytest.raises(ValueError, match=r"at least 1, got \(0, 8\)"):
        fit_to_bucket(random_image(8, 8), (0, 8))
