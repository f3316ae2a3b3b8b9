"""Image files: what is written comes back, and what is wrong is named. Figures are small files."""

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from bigain.errors import BiGainError
from bigain.utils.images import (
    contact_sheet,
    open_folder,
    pixels,
    read_image,
    read_sheet,
    write_png,
    write_sheet,
)
from bigain.utils.pictures import save_figure


def random_image(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def fill(folder: Path, count: int = 4, run: str | None = "a", size: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    for i in range(count):
        about = {"bigain.prompt": f"prompt {i}"} | ({"bigain.fingerprint": run} if run else {})
        write_png(folder / f"{i:03d}.png", random_image(i, size, size, 3), about)
    return folder


def refusal(*arguments: object, **keywords: object) -> str:
    with pytest.raises(BiGainError) as caught:
        list(open_folder(*arguments, **keywords))
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("shape", [(8, 6), (8, 6, 1), (8, 6, 3)])
def test_png_comes_back_exactly(tmp_path: Path, shape: tuple[int, ...]) -> None:
    image = random_image(0, *shape)
    write_png(tmp_path / "x.png", image, {})
    assert np.array_equal(read_image(tmp_path / "x.png").squeeze(), image.squeeze())
    assert read_image(tmp_path / "x.png").ndim == 3


def test_png_tells_what_it_is(tmp_path: Path) -> None:
    about = {"bigain.image_id": "000001", "bigain.prompt": "a café, 写真"}
    write_png(tmp_path / "x.png", random_image(0, 8, 8, 3), about)
    with Image.open(tmp_path / "x.png") as image:
        assert {key: image.info[key] for key in about} == about


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_png(tmp_path / "x.png", random_image(0, 8, 8, 5), {})
    with pytest.raises(ValueError, match="uint8"):
        write_png(tmp_path / "x.png", np.zeros((8, 8)), {})
    assert not list(tmp_path.iterdir())


def test_modes(tmp_path: Path) -> None:
    for mode, channels in {"1": 1, "L": 1, "LA": 1, "P": 3, "RGB": 3, "RGBA": 3}.items():
        Image.new(mode, (5, 4)).save(tmp_path / "x.png")
        assert read_image(tmp_path / "x.png").shape == (4, 5, channels)
    Image.new("I;16", (5, 4)).save(tmp_path / "x.png")
    assert "8 bits" in refusal(tmp_path)


def test_pixels_are_rounded_and_clipped() -> None:
    levels = torch.arange(256).view(1, 16, 16)
    assert np.array_equal(pixels(levels / 127.5 - 1)[..., 0], levels[0])
    assert np.array_equal(pixels((levels + 0.4) / 127.5 - 1)[..., 0], levels[0])
    assert np.array_equal(pixels((levels - 0.4) / 127.5 - 1)[..., 0], levels[0])
    assert pixels(torch.tensor([-1.2, 1.2]).view(2, 1, 1, 1)).flatten().tolist() == [0, 255]
    assert pixels(torch.zeros(2, 3, 4, 5)).shape == (2, 4, 5, 3)


def test_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path)
    listed = Path.iterdir  # in any order, as the system likes
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(sorted(listed(self))))
    (tmp_path / ".003.png.abc.tmp").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "notes.txt").touch()
    folder = open_folder(tmp_path)
    assert [p.name for p in folder.paths] == ["000.png", "001.png", "002.png", "003.png"]
    assert (len(folder), folder.size, folder.fingerprint) == (4, (8, 8), "a")
    assert folder.prompts == ("prompt 0", "prompt 1", "prompt 2", "prompt 3")
    for i, image in enumerate(folder):
        assert np.array_equal(image, random_image(i, 8, 8, 3))


def test_limit_takes_the_first(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "003.png").write_bytes(b"")  # beyond the limit, not looked at
    assert [p.name for p in open_folder(tmp_path, 2).paths] == ["000.png", "001.png"]
    assert "1..4" in refusal(tmp_path, 5)
    assert "1..4" in refusal(tmp_path, 0)


def test_jpeg_and_webp_count(tmp_path: Path) -> None:
    for name in ("a.JPEG", "b.jpg", "c.webp"):
        Image.new("RGB", (6, 6), (255, 0, 0)).save(tmp_path / name)
    folder = open_folder(tmp_path)
    assert (len(folder), folder.fingerprint, folder.prompts) == (3, None, None)
    assert all(image[..., 0].min() > 250 for image in folder)


def test_missing_and_empty(tmp_path: Path) -> None:
    assert str(tmp_path / "no") in refusal(tmp_path / "no")
    assert str(tmp_path) in refusal(tmp_path)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    fill(tmp_path, 6)
    whole = (tmp_path / "001.png").read_bytes()
    (tmp_path / "001.png").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "003.png").write_bytes(flipped)
    (tmp_path / "005.png").write_bytes(b"")
    message = refusal(tmp_path)
    assert all(f"{i}.png" in message for i in ("001", "003", "005"))
    assert not any(f"{i}.png" in message for i in ("000", "002", "004"))


def test_damage_that_headers_do_not_show(tmp_path: Path) -> None:
    Image.fromarray(random_image(0, 64, 64, 3)).save(tmp_path / "x.jpg")
    whole = (tmp_path / "x.jpg").read_bytes()
    (tmp_path / "x.jpg").write_bytes(whole[: len(whole) // 2])
    assert "x.jpg cannot be decoded" in refusal(tmp_path)


def test_sizes_must_agree_unless_mixed(tmp_path: Path) -> None:
    fill(tmp_path)
    write_png(tmp_path / "odd.png", random_image(0, 8, 9, 3), {"bigain.fingerprint": "a"})
    message = refusal(tmp_path)
    assert "4 of 8x8" in message
    assert "1 of 9x8 (first odd.png)" in message
    assert open_folder(tmp_path, mixed=True).size is None


def test_runs_must_agree(tmp_path: Path) -> None:
    fill(tmp_path)
    other = fill(tmp_path / "other", 1, run="b")
    (other / "000.png").rename(tmp_path / "other.png")
    message = refusal(tmp_path)
    assert "run a" in message
    assert "1 of run b (first other.png)" in message
    fill(tmp_path / "plain", 1, run=None)
    (tmp_path / "plain" / "000.png").rename(tmp_path / "other.png")
    assert "no run" in refusal(tmp_path)
    assert "no run" in refusal(tmp_path, mixed=True)


def test_sha256_follows_contents(tmp_path: Path) -> None:
    first = open_folder(fill(tmp_path / "a")).sha256()
    assert open_folder(fill(tmp_path / "b")).sha256() == first
    write_png(tmp_path / "b" / "003.png", random_image(9, 8, 8, 3), {"bigain.fingerprint": "a"})
    assert open_folder(tmp_path / "b").sha256() != first


def test_sheet_shows_every_image_enlarged() -> None:
    images = [random_image(i, 24, 32, 1) for i in range(11)]
    sheet = contact_sheet(images)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (2 * (72 + 4) + 4, 8 * (96 + 4) + 4, 3)
    second = sheet[4 : 4 + 72 : 3, 104 : 104 + 96 : 3]
    assert np.array_equal(second, images[1].repeat(3, 2))
    assert (sheet[80:152, 304:] == 255).all()  # the last five places are empty


def test_large_images_stay_as_they_are() -> None:
    assert contact_sheet([random_image(0, 64, 64, 3)] * 2).shape == (72, 140, 3)


@pytest.mark.parametrize("count", [1, 3, 8, 11])
@pytest.mark.parametrize(("height", "width", "channels"), [(32, 40, 1), (70, 64, 3)])
def test_a_sheet_comes_apart_again(tmp_path, count, height, width, channels):
    images = [random_image(i, height, width, channels) for i in range(count)]
    write_sheet(tmp_path / "sheet.png", images)
    found = read_sheet(tmp_path / "sheet.png")
    factor = 2 if height == 32 else 1
    assert len(found) == count
    for image, tile in zip(images, found, strict=True):
        wanted = np.broadcast_to(image, (height, width, 3)).repeat(factor, 0).repeat(factor, 1)
        assert np.array_equal(tile, wanted)


def test_another_image_is_no_sheet(tmp_path):
    write_png(tmp_path / "a.png", random_image(0, 72, 72, 3), {})
    with pytest.raises(BiGainError, match="no contact sheet"):
        read_sheet(tmp_path / "a.png")


def test_figures_are_the_same_bytes_and_of_a_palette(tmp_path):
    for name in ("a", "b"):
        figure = Figure()
        figure.subplots().plot([1, 2], [3, 1], color="#0072B2")
        save_figure(figure, tmp_path / f"{name}.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    picture = Image.open(tmp_path / "a.png")
    assert picture.mode == "P" and picture.info.keys() <= {"dpi"}
    assert picture.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert (0, 0x72, 0xB2) in {colour for _, colour in picture.convert("RGB").getcolors(1000)}
