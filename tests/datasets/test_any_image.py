"""Any image that Pillow can write, and any file in its place: read, or one line by its name."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bigain.datasets import Folder
from bigain.datasets.image_files import HUGE, THIN, decode, preprocessing
from bigain.errors import BiGainError
from bigain.utils.images import SUFFIXES, open_folder, read_image

Image.init()
MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "I;16",
    "F",
)
SIZES = ((1, 1), (7, 5), (2, 3000), (3000, 1))
WRITTEN = sorted(set(Image.SAVE) & set(Image.OPEN))


def written(kind: str, mode: str, size: tuple[int, int]) -> bytes | None:
    """A file's content; None if Pillow cannot write this mode or size in this format."""
    file = io.BytesIO()
    try:
        Image.new(mode, size).save(file, kind)
    except Exception:  # each plugin has errors of its own
        return None
    return file.getvalue()


def read(path: Path) -> bool:
    """Whether it can be read, by the data sets and as a generated image; else one line names it."""
    done = []
    for reads in (lambda: preprocessing(16)(decode(path, 16)), lambda: read_image(path)):
        try:
            done.append(reads().shape)
        except BiGainError as error:
            assert path.name in str(error) and "\n" not in str(error)
    assert len(done) in (0, 2), "the two ways of reading disagree"
    return bool(done)


@pytest.mark.parametrize("kind", WRITTEN)
@pytest.mark.filterwarnings("ignore")
def test_every_format_mode_and_size(tmp_path, kind):
    for mode in MODES:
        for size in SIZES:
            content = written(kind, mode, size)
            if content is None:
                continue
            for cut in (len(content), len(content) // 2, 20, 0):
                path = tmp_path / f"x{SUFFIXES[cut % len(SUFFIXES)]}"
                path.write_bytes(content[:cut])
                found = read(path)
                whole = cut == len(content) and mode in ("L", "RGB") and kind in ("PNG", "JPEG")
                assert found or not whole
                path.unlink()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["file", "link", "broken link", "folder"])
def test_what_bears_an_image_s_name(tmp_path, suffix, kind):
    folder = tmp_path / "data" / "apple"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    path = folder / f"x{suffix}"
    if kind == "file":
        path.write_bytes((tmp_path / "a.png").read_bytes())
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(tmp_path / ("a.png" if kind == "link" else "absent.png"))
    if kind in ("file", "link"):
        data = Folder(str(tmp_path / "data"), size=8)
        assert data[0].image.shape == (3, 8, 8) and data.identity()
        assert len(open_folder(folder)) == 1
        return
    for use in (lambda: Folder(str(tmp_path / "data"), size=8), lambda: open_folder(folder)):
        with pytest.raises(BiGainError, match=f"x{suffix}"):
            use()


def test_a_thin_image_is_prepared_as_a_less_thin_one_is(monkeypatch):
    draws = np.random.default_rng(0)
    image = Image.fromarray(draws.integers(0, 256, (4 * THIN + 5, 4, 3), np.uint8))
    for thin in (image, image.transpose(Image.Transpose.ROTATE_90)):
        centre = preprocessing(16)(thin)
        with monkeypatch.context() as patched:
            patched.setattr("bigain.datasets.image_files.THIN", 10 * THIN)
            whole = preprocessing(16)(thin)
        assert centre.shape == whole.shape == (3, 16, 16)
        # the whole is 17 times taller by rounding up, which moves its rows by less than a pixel
        assert (centre - whole).abs().mean() < 0.05


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB", "P", "CMYK"])
def test_a_huge_image_is_shrunk_and_looks_the_same(tmp_path, kind, mode, monkeypatch):
    if written(kind, mode, (8, 8)) is None:
        pytest.skip(f"no {kind} of {mode}")
    ramp = Image.linear_gradient("L").resize((900, 600)).convert("RGB")
    ramp.convert(mode).save(tmp_path / "x", kind)
    usual = preprocessing(16)(decode(tmp_path / "x", 16))
    monkeypatch.setattr("bigain.datasets.image_files.HUGE", 1000)
    small = decode(tmp_path / "x", 16)
    assert mode == "P" or 32 <= min(small.size) < 100
    assert (preprocessing(16)(small) - usual).abs().max() < 0.05


def test_too_many_pixels_are_refused_in_our_words(tmp_path, monkeypatch):
    Image.new("L", (100, 50)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for use in (decode, read_image):
        with pytest.raises(BiGainError, match="its 5000 pixels are more than the 2000 that are"):
            use(tmp_path / "x.png")


def test_memory_stays_within_reason(tmp_path):
    """Of a JPEG above `HUGE`, whose pixels alone would take 270 MB, and of a thin image."""
    side = int(HUGE**0.5) + 8
    Image.new("RGB", (side, side)).save(tmp_path / "huge.jpg")
    Image.new("RGB", (2, 3000)).save(tmp_path / "thin.png")
    code = (
        "import resource, sys\nfrom pathlib import Path\n"
        "from bigain.datasets.image_files import decode, preprocessing\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for name in sys.argv[1:]: preprocessing(512)(decode(Path(name), 512))\n"
        "print(peak() - before)\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "huge.jpg", tmp_path / "thin.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) < 100 * 1024  # in KiB
