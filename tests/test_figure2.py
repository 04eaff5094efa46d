"""The redrawn Figure 2: complete, with no box over another, and one part lit at a time."""

import itertools

import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import FancyBboxPatch

from lipformer_core.figures.figure2 import ACROSS, ARROWS, BOXES, HEIGHT, LIT, PARTS, figure2


def lit(figure) -> set[str]:
    patches = [p for p in figure.axes[0].patches if isinstance(p, FancyBboxPatch)]
    assert {p.get_gid() for p in patches} == set(BOXES)
    return {p.get_gid() for p in patches if to_hex(p.get_facecolor()) == LIT}


def test_nothing_is_lit_unless_asked():
    assert lit(figure2()) == set()


@pytest.mark.parametrize("part", PARTS)
def test_lights_the_boxes_of_one_part(part):
    own = {name for name, box in BOXES.items() if box.part == part}
    assert lit(figure2(part)) == (own or set(ACROSS[part])) != set()


def test_unknown_part_is_refused():
    with pytest.raises(ValueError, match="encoder"):
        figure2("encoder")


def test_boxes_do_not_overlap():
    for a, b in itertools.combinations(BOXES.values(), 2):
        assert abs(a.x - b.x) >= (a.width + b.width) / 2 or abs(a.y - b.y) >= HEIGHT, (a.text, b.text)


def test_every_box_is_connected():
    assert {name for arrow in ARROWS for name in arrow} == set(BOXES)


def test_an_equations_code_is_shown_without_its_docstring():
    from lipformer_core.figures.source import source_of
    from lipformer_core.model.codebook import vq_loss

    text = source_of(vq_loss, vq_loss)
    assert text.startswith("def vq_loss(") and text.count("return codebook_term + beta * commitment_term") == 2
    assert '"""' not in text
