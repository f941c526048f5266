"""Free-form captions, phrased like users' prompts, with more words and patterns than the fixed core and full grammars.

A free caption mentions any subset of the facts, all correct, in any order: "blue cube, black background", "show
me a huge orb that rises", "a gray floor with a motionless cone". Some contain words that do not affect the video ("high
quality") or are not in the vocabulary ("a cube named zorp"), so that a model learns to ignore them. They describe only
scenes of the pair grammar: one or two toys, a plain floor, daylight and a fixed camera.
"""

import re
import string

import numpy as np

from cogvideox.toybox.captions.vocabulary import article, pick
from cogvideox.toybox.scenes.grammar import Scene, Toy

COLORS = {
    "red": ("red", "red", "crimson", "scarlet", "ruby", "bright red"),
    "green": ("green", "green", "emerald", "lime", "bright green"),
    "blue": ("blue", "blue", "royal blue", "navy", "cobalt", "deep blue"),
    "yellow": ("yellow", "yellow", "golden", "lemon", "bright yellow"),
    "purple": ("purple", "purple", "violet", "plum", "lavender"),
    "orange": ("orange", "orange", "tangerine", "amber"),
}
SHAPES = {
    "ball": (("ball", "balls"), ("ball", "balls"), ("sphere", "spheres"), ("orb", "orbs"), ("globe", "globes")),
    "cube": (("cube", "cubes"), ("cube", "cubes"), ("box", "boxes"), ("block", "blocks"), ("crate", "crates")),
    "cone": (("cone", "cones"), ("cone", "cones"), ("cone shape", "cone shapes")),
}
THINGS = (("thing", "things"), ("object", "objects"), ("toy", "toys"), ("shape", "shapes"))
SIZES = {
    "small": ("small", "small", "little", "tiny", "miniature", "mini"),
    "large": ("large", "large", "big", "huge", "giant"),
}
ADJECTIVES = ("shiny", "smooth", "simple", "solid", "plastic", "nice", "wooden")
BACKGROUNDS = {
    "white": ("white", "white", "plain white"),
    "gray": ("gray", "grey", "plain gray"),
    "black": ("black", "black", "plain black"),
    "pink": ("pink", "pink", "rose"),
    "cyan": ("cyan", "light blue", "sky blue", "turquoise"),
    "brown": ("brown", "brown", "plain brown"),
}
FLOORS = ("floor", "background", "surface", "ground", "backdrop", "table", "carpet")
VERBS = (
    ("moves", "moving", "move"),
    ("moves", "moving", "move"),
    ("drifts", "drifting", "drift"),
    ("slides", "sliding", "slide"),
    ("glides", "gliding", "glide"),
    ("goes", "going", "go"),
    ("travels", "travelling", "travel"),
    ("rolls", "rolling", "roll"),
    ("floats", "floating", "float"),
    ("heads", "heading", "head"),
    ("is moving", "moving", "are moving"),
)
DIRECTIONS = {  # phrases that differ only in word order are frequent, so that word order is learned
    "left": (
        *("left", "to the left", "towards the left", "leftward", "leftwards", "from the right"),
        *("from right to left",) * 3,
    ),
    "right": (
        *("right", "to the right", "towards the right", "rightward", "rightwards", "from the left"),
        *("from left to right",) * 3,
    ),
    "up": ("up", "upward", "upwards", "towards the top", "to the top", *("from bottom to top",) * 3),
    "down": ("down", "downward", "downwards", "towards the bottom", "to the bottom", *("from top to bottom",) * 3),
}
DIRECTED_VERBS = {
    "up": (("rises", "rising", "rise"), ("climbs", "climbing", "climb"), ("ascends", "ascending", "ascend")),
    "down": (
        *(("falls", "falling", "fall"), ("falls down", "falling down", "fall down")),
        *(("sinks", "sinking", "sink"), ("descends", "descending", "descend"), ("drops", "dropping", "drop")),
    ),
}
STILL_VERBS = (
    ("stays still", "staying still", "stay still"),
    ("stands still", "standing still", "stand still"),
    ("does not move", "not moving", "do not move"),
    ("is not moving", "not moving", "are not moving"),
    ("rests", "resting", "rest"),
    ("remains in place", "remaining in place", "remain in place"),
    ("stays at rest", "at rest", "stay at rest"),
    ("sits still", "sitting still", "sit still"),
    ("is still", "being still", "are still"),
    ("is motionless", "motionless", "are motionless"),
    ("is stationary", "stationary", "are stationary"),
)
STILL_ADJECTIVES = ("motionless", "stationary", "resting", "unmoving")
ADVERBS = ("slowly", "steadily", "smoothly", "gently", "quietly")
OPENINGS = (
    *("a video of {}", "a clip of {}", "show me {}", "we see {}", "there is {}", "a picture of {}", "a render of {}"),
    *("an animation of {}", "a simple scene with {}", "imagine {}", "please show {}", "in this video, {}"),
)
ENDINGS = (
    *("high quality", "4k", "cinematic", "simple animation", "3d render", "nothing else", "the camera is fixed"),
    *("slow motion", "very detailed", "beautiful", "nice lighting", "minimal style"),
)
CONJUNCTIONS = ("{} and {}", "{} and {}", "{} and {}", "{}, {}", "{} while {}", "{} next to {}", "{} with {}")


def caption_free(scene: Scene, rng: np.random.Generator, *, image: bool = False) -> str:
    """Return a free caption of a scene of the pair grammar; without motions for an image."""
    u = rng.random()
    ground = pick(BACKGROUNDS[scene.background], rng) + " " + pick(FLOORS, rng)
    articles = rng.random() < 0.85
    toys = list(scene.toys)
    if len(toys) == 2 and rng.random() < 0.5:
        toys.reverse()
    names_motion = not image and rng.random() < 0.9
    caption = _toys(toys, rng, articles=articles, motion=names_motion)
    if rng.random() < 0.85:
        place = article(ground) if articles else ground
        if u < 0.25:
            caption = f"on {place}, {caption}"
        elif u < 0.35 and "while" not in caption:
            caption = f"{place} with {caption}"
        elif u < 0.45:
            caption = f"{caption}, {ground}"
        else:
            caption = f"{caption} {pick(('on', 'on', 'over', 'against', 'across'), rng)} {place}"
    if rng.random() < 0.15 and not caption.startswith("on "):
        caption = pick(OPENINGS, rng).format(caption)
    if rng.random() < 0.1:
        caption = f"{caption}, {pick(ENDINGS, rng)}"
    return caption + ("." if rng.random() < 0.15 else "")


def _toys(toys: list[Toy], rng: np.random.Generator, *, articles: bool, motion: bool) -> str:
    if len(toys) == 1:
        return _clause(toys[0], rng, articles=articles, motion=motion, alone=True)
    first, second = toys
    if first.facts == second.facts:
        name = f"two {_name(first, rng, plural=True)}"
        return f"{name} {_verb(first.motion, rng)[2]}" if motion else name
    if first.motion == second.motion and rng.random() < 0.6:
        names = pick(CONJUNCTIONS[:3], rng).format(*(_with_article(_name(toy, rng), rng, articles) for toy in toys))
        both = "both " if rng.random() < 0.4 else ""
        return f"{names} {both}{_verb(first.motion, rng)[2]}" if motion else names
    clauses = [_clause(toy, rng, articles=articles, motion=motion) for toy in toys]
    return pick(CONJUNCTIONS, rng).format(*clauses)


def _clause(toy: Toy, rng: np.random.Generator, *, articles: bool, motion: bool, alone: bool = False) -> str:
    """Describe a toy and its motion: "a ball moves left", "a ball that moves left", "a ball moving left"."""
    u, verb = rng.random(), _verb(toy.motion, rng)
    if not motion:
        return _with_article(_name(toy, rng), rng, articles)
    if toy.motion == "still" and u < 0.25:
        return _with_article(f"{pick(STILL_ADJECTIVES, rng)} {_name(toy, rng)}", rng, articles)
    name = _with_article(_name(toy, rng), rng, articles)
    if alone and rng.random() < 0.05:  # made-up names use many tokens, too many for two toys
        name = f"{name} named {''.join(rng.choice(list(string.ascii_lowercase), int(rng.integers(3, 6))))}"
    return f"{name} {verb[0]}" if u < 0.55 else f"{name} that {verb[0]}" if u < 0.65 else f"{name} {verb[1]}"


def _name(toy: Toy, rng: np.random.Generator, *, plural: bool = False) -> str:
    u, v, w = rng.random(3)
    noun = pick(THINGS if u < 0.06 else SHAPES[toy.shape], rng)[int(plural)]
    color = pick(COLORS[toy.color], rng)
    words = [color, noun] if v < 0.94 else [noun]
    if rng.random() < 0.06:
        words.insert(0, pick(ADJECTIVES, rng))
    return " ".join([pick(SIZES[toy.size], rng), *words] if w < 0.75 else words)


def _with_article(name: str, rng: np.random.Generator, articles: bool) -> str:
    return name if not articles else f"the {name}" if rng.random() < 0.1 else article(name)


def _verb(motion: str, rng: np.random.Generator) -> tuple[str, str, str]:
    """Return a verb phrase in three forms: third person singular, participle, plural."""
    if motion == "still":
        return pick(STILL_VERBS, rng)
    if motion in DIRECTED_VERBS and rng.random() < 0.35:
        forms = pick(DIRECTED_VERBS[motion], rng)
    else:
        direction = pick(DIRECTIONS[motion], rng)
        verb = ("crosses", "crossing", "cross") if "from" in direction and rng.random() < 0.15 else pick(VERBS, rng)
        forms = (f"{verb[0]} {direction}", f"{verb[1]} {direction}", f"{verb[2]} {direction}")
    if rng.random() < 0.1:
        adverb = pick(ADVERBS, rng)
        return (f"{forms[0]} {adverb}", f"{forms[1]} {adverb}", f"{forms[2]} {adverb}")
    return forms


def _words() -> tuple[str, ...]:
    phrases = [phrase for table in (COLORS, SIZES, BACKGROUNDS, DIRECTIONS) for row in table.values() for phrase in row]
    tables = [*SHAPES.values(), *DIRECTED_VERBS.values()]
    forms = [*VERBS, *STILL_VERBS, *THINGS, *(row for rows in tables for row in rows)]
    phrases += [form for row in forms for form in row]
    phrases += [*ADJECTIVES, *FLOORS, *STILL_ADJECTIVES, *ADVERBS, *OPENINGS, *ENDINGS, *CONJUNCTIONS]
    phrases += ["a an the and two both that while named on over against across with crosses crossing cross"]
    return tuple(sorted({word for phrase in phrases for word in re.findall(r"[a-z]+", phrase)}))


FREE_WORDS = _words()
"""Every word of free captions, except names."""
