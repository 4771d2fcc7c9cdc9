"""Pictures reach the model as the original models' own code reads them: `Image.open(path).convert("RGB")`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from families import ALIKE, FAMILIES
from lmms_tiny import load_wrapper
from PIL import Image as Picture
from PIL import ImageFile
from test_lmms_models import questions

from adaptinfer_eval.backbones.messages import Image
from adaptinfer_eval.models.pictures import read_picture
from adaptinfer_eval.models.requests import RequestError

RNG = np.random.default_rng(0)
NOISE = RNG.integers(0, 256, (24, 24, 3), dtype=np.uint8)
BASE = Picture.fromarray(NOISE // 64 * 64)
PALETTE = BASE.convert("P", palette=Picture.Palette.ADAPTIVE, colors=8)
ROTATED = Picture.Exif()
ROTATED[0x0112] = 6  # the camera was held upright

FILES: dict[str, tuple[Picture.Image, str, dict[str, Any]]] = {
    "RGBA": (Picture.fromarray(np.dstack([NOISE, NOISE[..., 0]])), "PNG", {}),
    "LA": (Picture.fromarray(NOISE[..., :2], "LA"), "PNG", {}),
    "palette, a transparent colour": (PALETTE, "PNG", {"transparency": 0}),
    "palette, an alpha per colour": (PALETTE, "PNG", {"transparency": bytes([0, 100, 255])}),
    "RGB, a transparent colour": (BASE, "PNG", {"transparency": BASE.getpixel((0, 0))}),
    "grey, a transparent shade": (BASE.convert("L"), "PNG", {"transparency": BASE.convert("L").getpixel((0, 0))}),
    "black and white": (BASE.convert("1"), "PNG", {"transparency": 0}),
    "16 bit": (Picture.fromarray(NOISE[..., 0].astype(np.uint16) * 200), "PNG", {}),
    "GIF": (PALETTE, "GIF", {"transparency": 0}),
    "WebP": (Picture.fromarray(np.dstack([NOISE, NOISE[..., 0]])), "WEBP", {"lossless": True}),
    "CMYK": (BASE.convert("CMYK"), "JPEG", {}),
    "float": (BASE.convert("F"), "TIFF", {}),
    "turned camera": (BASE, "JPEG", {"exif": ROTATED}),
}


def stored(image: Picture.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return {family: load_wrapper(FAMILIES[family].save(tmp_path_factory.mktemp(family)), family) for family in ALIKE}


@pytest.mark.parametrize("family", ALIKE)
@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_read_as_the_original_reads_it(models: dict[str, Any], family: str, name: str) -> None:
    """As stored, as a path, and behind the conversion that lmms-eval's tasks do."""
    image, kind, options = FILES[name]
    data = stored(image, kind, **options)
    original = Picture.open(io.BytesIO(data)).convert("RGB")
    clean = Picture.fromarray(np.asarray(original))  # its colours and nothing else
    model = models[family]

    def pixels(shown: Any) -> Any:
        return model.encode([model.prompt([("user", [Image(shown), "x"])])]).inputs["pixel_values"].numpy()

    wanted = pixels(clean)
    for shown in (Picture.open(io.BytesIO(data)), original):
        assert np.array_equal(pixels(shown), wanted)
    processor = model.processor.image_processor
    values = processor.image_mean, processor.image_std
    mean, std = (np.array(value)[:, None, None] for value in values)
    assert np.array_equal(np.rint((wanted[0] * std + mean) * 255).transpose(1, 2, 0), np.asarray(original))


def test_paths_and_addresses_are_read_alike(tmp_path: Path) -> None:
    data = stored(*FILES["RGB, a transparent colour"][:2], **FILES["RGB, a transparent colour"][2])
    (tmp_path / "a.png").write_bytes(data)
    wanted = np.asarray(Picture.open(io.BytesIO(data)).convert("RGB"))
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").as_uri()):
        picture = read_picture(source)
        assert np.array_equal(np.asarray(picture), wanted)
        assert "transparency" not in picture.info


def test_a_picture_that_is_handed_over_is_left_as_it_is() -> None:
    picture = Picture.open(io.BytesIO(stored(BASE, "PNG", transparency=(0, 0, 0))))
    read_picture(picture)
    assert picture.info["transparency"] == (0, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_a_picture_that_ends_too_early_is_refused_by_name(
    models: dict[str, Any], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lmms-eval tells Pillow to fill up in grey; inside a data set, and as an open file."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = stored(Picture.fromarray(NOISE), kind)
    cut = whole[: len(whole) * 2 // 3]
    model = models["llava"]
    features = datasets.Features({"image": datasets.Image(), "question": datasets.Value("string")})
    shown = [{"bytes": data, "path": None} for data in (whole, cut)]
    found = datasets.Dataset.from_dict({"image": shown, "question": ["x", "y"]}, features=features)

    def to_messages(document: dict[str, Any]) -> list[dict[str, Any]]:
        image = {"type": "image", "url": document["image"]}
        return [{"role": "user", "content": [image, {"type": "text", "text": document["question"]}]}]

    model.task_dict = {"quiz": {"test": found}}
    with pytest.raises(RequestError, match=r"task quiz, doc_id 1: .*truncated"):
        model.generate_until(questions([{"question": "x"}, {"question": "y"}], to_messages))
    with pytest.raises((OSError, SyntaxError), match=r"truncated|broken"):
        model.prompt([("user", [Image(Picture.open(io.BytesIO(cut))), "x"])])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is True
