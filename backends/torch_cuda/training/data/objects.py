"""The everyday objects that the tiny family knows, with the words people use for them.

The list is kept by hand: each object was looked at in all three styles, is recognisable at 128 px,
and carries only names that are true of its drawing. Order is part of the pack: append, never insert.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thing:
    """One object.

    Attributes:
        name: Its plain name, and the label that tests ask for.
        code: Unicode code point of its drawing.
        words: Singular names with their plurals; the first is the plain name.
        colour: True colour of the 3D and flat drawing where it plainly has one, else "".
        recolour: Whether the body may be given another colour and still look right.
        flip: Whether a mirrored drawing is as true as the original.
        floats: Flies or hangs in the sky: no shadow below it.
        line_code: Another code point whose line drawing is cleaner, else "".
        outline: The line drawing is a filled or hatched shape; draw its outline instead.
        body_hue: Hue in degrees of what is recoloured, where the most common hue is not the body.
        hue_reach: How far from that hue the body's shading goes, in turns.
        is_bare: Its singular takes no article: scissors, grapes.
        least_saturation: Below it, a pixel does not belong to a coloured body.
    """

    name: str
    code: str
    words: tuple[tuple[str, str], ...]
    colour: str = ""
    recolour: bool = False
    flip: bool = True
    floats: bool = False
    is_bare: bool = False
    line_code: str = ""
    outline: bool = False
    body_hue: float | None = None
    hue_reach: float = 0.10
    least_saturation: float = 0.22


def _words(text: str) -> tuple[tuple[str, str], ...]:
    """Reads "cat/cats, kitty/kitties"."""
    pairs = [entry.strip().split("/") for entry in text.split(",")]
    return tuple((singular, plural) for singular, plural in pairs)


def _thing(code: str, text: str, **rest: object) -> Thing:
    words = _words(text)
    return Thing(name=words[0][0], code=code, words=words, **rest)  # type: ignore[arg-type]


THINGS: tuple[Thing, ...] = (
    _thing("1f34e", "apple/apples", colour="red", recolour=True, outline=True),
    _thing("1f34c", "banana/bananas", colour="yellow", recolour=True),
    _thing("1f353", "strawberry/strawberries", colour="red", recolour=True),
    _thing("1f34b", "lemon/lemons", colour="yellow", recolour=True, hue_reach=0.13),
    _thing("1f955", "carrot/carrots", colour="orange", recolour=True, hue_reach=0.13),
    _thing("1f344", "mushroom/mushrooms, toadstool/toadstools", recolour=True),
    _thing("1f354", "hamburger/hamburgers, burger/burgers, cheeseburger/cheeseburgers"),
    _thing("1f355", "pizza/pizzas, slice of pizza/slices of pizza, pizza slice/pizza slices"),
    _thing("1f369", "donut/donuts, doughnut/doughnuts", recolour=True),
    _thing("1f366", "ice cream/ice creams, ice cream cone/ice cream cones"),
    _thing("1f382", "birthday cake/birthday cakes, cake/cakes"),
    _thing("2615", "cup of coffee/cups of coffee, coffee cup/coffee cups, coffee/coffees, cup/cups"),
    _thing("1f33b", "sunflower/sunflowers", colour="yellow", recolour=True),
    _thing("1f337", "tulip/tulips", colour="pink", recolour=True),
    _thing("1f333", "tree/trees", colour="green", recolour=True, outline=True),
    _thing("1f335", "cactus/cacti", colour="green", recolour=True),
    _thing("1f697", "car/cars, automobile/automobiles", colour="red", recolour=True),
    _thing(
        "2708", "airplane/airplanes, plane/planes, aeroplane/aeroplanes, jet/jets", recolour=True, floats=True
    ),
    _thing(
        "1f680",
        "rocket/rockets, spaceship/spaceships, space rocket/space rockets",
        recolour=True,
        floats=True,
    ),
    _thing("26f5", "sailboat/sailboats, sailing boat/sailing boats, boat/boats", recolour=True, body_hue=42),
    _thing("1f3e0", "house/houses, home/homes", recolour=True),
    _thing("2602", "umbrella/umbrellas, parasol/parasols", colour="purple", recolour=True),
    _thing("1f4d5", "book/books", colour="red", recolour=True, flip=False),
    _thing("1f511", "key/keys", colour="yellow", recolour=True),
    _thing("1f514", "bell/bells", colour="yellow", recolour=True),
    _thing("1f388", "balloon/balloons", recolour=True, hue_reach=0.2, floats=True),
    _thing("1f3b8", "guitar/guitars, electric guitar/electric guitars", recolour=True),
    _thing("1f3a9", "top hat/top hats, hat/hats", recolour=True, hue_reach=0.16, least_saturation=0.05),
    _thing(
        "1f455",
        "t-shirt/t-shirts, shirt/shirts, tee shirt/tee shirts",
        colour="green",
        recolour=True,
        hue_reach=0.22,
    ),
    _thing("1fa91", "chair/chairs", colour="brown", recolour=True),
    _thing("2b50", "star/stars", colour="yellow", recolour=True, floats=True, outline=True),
    _thing("2764", "heart/hearts", colour="red", recolour=True, floats=True, line_code="1f90d"),
    _thing("1f319", "crescent moon/crescent moons, moon/moons", colour="yellow", recolour=True, floats=True),
    _thing("1f31e", "sun/suns, smiling sun/smiling suns", recolour=True, floats=True),
    _thing("2601", "cloud/clouds", colour="white", recolour=True, floats=True, outline=True),
    _thing("1f916", "robot/robots, robot head/robot heads"),
    _thing("1f47b", "ghost/ghosts", colour="white", recolour=True),
    _thing("26c4", "snowman/snowmen"),
    _thing("26bd", "soccer ball/soccer balls, football/footballs, ball/balls"),
    _thing("1f431", "cat/cats, kitty/kitties, kitten/kittens, cat face/cat faces", recolour=True),
    _thing("1f436", "dog/dogs, puppy/puppies, dog face/dog faces", recolour=True),
    _thing("1f41f", "fish/fish", colour="blue", recolour=True),
    _thing("1f98b", "butterfly/butterflies", recolour=True, floats=True),
    _thing("1f986", "duck/ducks"),
    _thing("1f430", "rabbit/rabbits, bunny/bunnies", recolour=True),
    _thing("1f43c", "panda/pandas, panda bear/panda bears, panda face/panda faces"),
    _thing("1f437", "pig/pigs, pig face/pig faces", colour="pink", recolour=True),
    _thing("1f438", "frog/frogs, frog face/frog faces", colour="green", recolour=True),
    _thing("1f981", "lion/lions, lion face/lion faces"),
    _thing("1f98a", "fox/foxes, fox face/fox faces", colour="orange", recolour=True),
    _thing("1f427", "penguin/penguins"),
    _thing("1f989", "owl/owls"),
    _thing("1f422", "turtle/turtles", colour="green", recolour=True),
    _thing("1f419", "octopus/octopuses", colour="orange", recolour=True, hue_reach=0.2),
    _thing("1f418", "elephant/elephants", colour="gray", recolour=True),
    _thing("1f992", "giraffe/giraffes", recolour=True),
    _thing("1f984", "unicorn/unicorns, unicorn face/unicorn faces"),
    _thing("1f40c", "snail/snails", colour="brown", recolour=True),
    _thing("1f41d", "bee/bees", floats=True),
    _thing("1f41e", "ladybug/ladybugs", colour="red", recolour=True),
    _thing("1f433", "whale/whales", colour="blue", recolour=True),
    _thing("1f980", "crab/crabs", colour="red", recolour=True),
    _thing("1f996", "dinosaur/dinosaurs", colour="green", recolour=True),
    _thing("1f350", "pear/pears", recolour=True, hue_reach=0.16),
    _thing("1f347", "grapes/bunches of grapes", is_bare=True, colour="purple", recolour=True),
    _thing("1f352", "cherries/pairs of cherries", is_bare=True, colour="red", recolour=True),
    _thing("1f349", "watermelon/watermelons, slice of watermelon/slices of watermelon"),
    _thing("1f34d", "pineapple/pineapples"),
    _thing("1f9c1", "cupcake/cupcakes", colour="pink", recolour=True),
    _thing("1f383", "pumpkin/pumpkins", colour="orange", recolour=True),
    _thing("1f384", "christmas tree/christmas trees", colour="green", recolour=True),
    _thing("1f334", "palm tree/palm trees"),
    _thing("1f341", "leaf/leaves, maple leaf/maple leaves", colour="red", recolour=True),
    _thing("1f33c", "flower/flowers, daisy/daisies"),
    _thing("1f68c", "bus/buses"),
    _thing("1f69a", "truck/trucks", colour="yellow", recolour=True),
    _thing("1f682", "train/trains, steam train/steam trains"),
    _thing("1f681", "helicopter/helicopters", colour="orange", recolour=True, floats=True),
    _thing("2693", "anchor/anchors", colour="blue", recolour=True),
    _thing("1f3f0", "castle/castles"),
    _thing("2702", "scissors/pairs of scissors", is_bare=True, colour="red", recolour=True),
    _thing("1f4a1", "light bulb/light bulbs", colour="yellow", recolour=True),
    _thing("23f0", "alarm clock/alarm clocks, clock/clocks", colour="red", recolour=True),
    _thing("1f4f7", "camera/cameras"),
    _thing("1f4bb", "laptop/laptops, computer/computers"),
    _thing("1f381", "gift/gifts, present/presents, gift box/gift boxes", colour="yellow", recolour=True),
    _thing("1f451", "crown/crowns", recolour=True),
    _thing("1f48e", "diamond/diamonds, gem/gems", colour="blue", recolour=True),
    _thing("1f576", "sunglasses/pairs of sunglasses", is_bare=True),
    _thing("1f457", "dress/dresses", colour="blue", recolour=True),
    _thing("1f3c0", "basketball/basketballs", colour="orange", recolour=True),
    _thing("1f9f8", "teddy bear/teddy bears", recolour=True),
    _thing("270f", "pencil/pencils", colour="orange", recolour=True),
    _thing("1f512", "lock/locks, padlock/padlocks", recolour=True),
    _thing("1f525", "fire/fires, flame/flames", colour="orange", recolour=True),
    _thing("1f308", "rainbow/rainbows", floats=True),
    _thing("26a1", "lightning bolt/lightning bolts", colour="orange", recolour=True, floats=True),
    _thing("2744", "snowflake/snowflakes", colour="blue", recolour=True, floats=True),
    _thing("1fa90", "planet/planets, ringed planet/ringed planets", recolour=True, floats=True),
    _thing("1f480", "skull/skulls", colour="white", recolour=True),
)
