"""Makes the demo's captioned pictures out of Google's Noto emoji, so that anyone can see where they come from.

    npm pack @iconify-json/noto@1.2.9 && tar xzf iconify-json-noto-1.2.9.tgz
    pip install "resvg-py==0.5.0"
    python config/demo/make_pictures.py package/icons.json

One picture is a PNG on white whose file name is its caption. Most show one subject (128 x 128 px); some show two, side
by side (192 x 128 px, "banana and pear") or one over the other (128 x 192 px, "parrot above coconut"), so that a run
meets three aspect ratios.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path

import resvg_py
from PIL import Image

FOLDER = Path(__file__).resolve().parent / "pictures"
EDGE_PX = 128
LONGER_EDGE_PX = 192
ALONE_PX = 116
TOGETHER_PX = 90

FOOD = """
avocado, bacon, bagel, banana, bell pepper, birthday cake, blueberries, bread, broccoli, burrito, candy, carrot,
cheese wedge, cherries, chocolate bar, coconut, cookie, croissant, cucumber, cupcake, doughnut, ear of corn, egg,
eggplant, garlic, grapes, green apple, hamburger, hot dog, hot pepper, ice cream, kiwi fruit, lemon, lollipop, mango,
melon, onion, pancakes, peach, pear, pineapple, pizza, pretzel, red apple, sandwich, shortcake, strawberry, sushi,
tangerine, tomato, waffle, watermelon
"""

ANIMALS = """
ant, baby chick, bat, bear, beetle, bird, blowfish, butterfly, camel, cat, chicken, cow, crab, crocodile, deer, dog,
dolphin, dove, duck, eagle, elephant, fish, flamingo, fox, frog, giraffe, goat, gorilla, hedgehog, hippopotamus,
honeybee, horse, jellyfish, kangaroo, koala, lady beetle, lion, lobster, monkey, mouse, octopus, otter, owl, panda,
parrot, peacock, penguin, pig, rabbit, raccoon, rooster, shark, sheep, shrimp, sloth, snail, snake, swan, tiger,
tropical fish, turtle, unicorn, whale, zebra
"""

SIDE_BY_SIDE = """
banana and pear, red apple and green apple, lemon and tangerine, carrot and broccoli, rabbit and carrot, cat and fish,
monkey and banana, honeybee and strawberry, cow and ice cream, mouse and cheese wedge, panda and koala, fox and grapes,
dog and hot dog, tomato and cucumber, cupcake and doughnut, penguin and shrimp, frog and turtle, bear and blueberries,
elephant and watermelon, owl and cookie
"""

ONE_OVER_THE_OTHER = """
parrot above coconut, bird above cherries, butterfly above pineapple, cat above pizza, duck above bread,
strawberry above pancakes, egg above bacon, cherries above shortcake, monkey above mango, chicken above egg,
whale above octopus, tropical fish above crab, bat above eggplant, lady beetle above pear, eagle above snake,
ice cream above waffle, dolphin above jellyfish, flamingo above shrimp, rooster above ear of corn, dove above peach
"""

# Where the emoji's name is not what a person would write.
EMOJI_NAMES = {"sheep": "ewe", "cat": "cat-face", "dog": "dog-face", "rabbit": "rabbit-face", "mouse": "mouse-face"}


def captions(listing: str) -> list[str]:
    """The captions of one list above, in its order."""
    return [" ".join(caption.split()) for caption in listing.split(",")]


def draw(subject: str, *, icons: Mapping[str, Mapping[str, str]], edge_px: int) -> Image.Image:
    """One emoji as [edge_px, edge_px] RGBA."""
    body = icons[EMOJI_NAMES.get(subject, subject.replace(" ", "-"))]["body"]
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 128 128">{body}</svg>'
    return Image.open(BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg, width=edge_px, height=edge_px))))


def compose(drawings: Sequence[Image.Image], *, width_px: int, height_px: int) -> Image.Image:
    """The drawings on white, each in the middle of its share of the longer edge."""
    picture = Image.new("RGB", (width_px, height_px), "white")
    for place, drawing in enumerate(drawings):
        share = (2 * place + 1) / (2 * len(drawings))
        across, down = (share, 0.5) if width_px > height_px else (0.5, share)
        corner = (round(across * width_px - drawing.width / 2), round(down * height_px - drawing.height / 2))
        picture.paste(drawing, corner, drawing)
    return picture


def main(icons_file: Path) -> None:
    """Draws every picture into config/demo/pictures/, over what is there."""
    icons = json.loads(icons_file.read_text(encoding="utf-8"))["icons"]
    plan = [(caption, [caption], EDGE_PX, EDGE_PX) for caption in captions(FOOD) + captions(ANIMALS)]
    plan += [(caption, caption.split(" and "), LONGER_EDGE_PX, EDGE_PX) for caption in captions(SIDE_BY_SIDE)]
    plan += [(caption, caption.split(" above "), EDGE_PX, LONGER_EDGE_PX) for caption in captions(ONE_OVER_THE_OTHER)]
    FOLDER.mkdir(exist_ok=True)
    for caption, subjects, width_px, height_px in plan:
        edge_px = ALONE_PX if len(subjects) == 1 else TOGETHER_PX
        drawings = [draw(subject, icons=icons, edge_px=edge_px) for subject in subjects]
        picture = compose(drawings, width_px=width_px, height_px=height_px)
        picture.save(FOLDER / f"{caption}.png", optimize=True)
    print(f"drew {len(plan)} pictures into {FOLDER}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
