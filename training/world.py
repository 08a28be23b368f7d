"""The small world: who lives in it, where, and with what.

Every story variable has a domain here. A domain may depend on what is already
bound (a spot belongs to a place, a girl has a girl's name).
"""

GIRLS = ["Mia", "Lily", "Nora", "Ada", "Tilda", "Juno", "Hazel", "Wren", "Elsie", "Poppy",
         "Clara", "Ivy", "Maren", "Greta", "Rosa", "June"]
BOYS = ["Pip", "Tom", "Finn", "Oscar", "Bram", "Milo", "Otto", "Hugo", "Jasper", "Theo",
        "Rufus", "Leo", "Ned", "Arlo", "Sam", "Kit"]
ELDER_WOMEN = ["Mrs. Alder", "Miss Tansy", "Granny Birch", "Aunt Dora", "Madam Quill"]
ELDER_MEN = ["Mr. Hobb", "Old Bartle", "Uncle Fen", "Grandpa Reed", "Captain Loy"]
ROLES = ["baker", "miller", "beekeeper", "clockmaker", "gardener", "weaver", "potter",
         "lamplighter", "toymaker", "carpenter"]
# A story's hero and the hero's friend are of different kinds, and so are their names: whoever reads
# "the fox" knows who is meant.
HERO_ANIMALS = ["fox", "rabbit", "hedgehog", "mouse", "squirrel", "bear", "owl", "cat", "dog"]
FRIEND_ANIMALS = ["badger", "otter", "duck", "frog", "goat", "mole", "pony"]
ANIMALS = HERO_ANIMALS + FRIEND_ANIMALS

COLORS = ["red", "blue", "green", "yellow", "silver", "orange", "golden", "white"]
OBJECTS = ["lantern", "kite", "drum", "whistle", "bell", "compass", "umbrella", "scarf", "teapot",
           "music box", "ball", "key", "toy boat", "hat", "basket", "spoon", "bucket", "marble",
           "ring", "book", "flute", "button"]

# Where one is, said of each place.
PLACES = {"forest": "in", "meadow": "in", "valley": "in", "orchard": "in", "village": "in",
          "marsh": "in", "hill": "on", "harbor": "by", "river": "by", "lake": "by",
          "old mill": "by", "sea": "by"}
SPOTS = {
    "forest": ["under a pile of dry leaves", "between the roots of an old oak",
               "beside a mossy stump", "inside a hollow log"],
    "meadow": ["deep in the tall grass", "under a patch of clover", "behind a large gray stone",
               "among the buttercups"],
    "valley": ["beside a thin little stream", "under a bent pine tree", "behind a wall of stones",
               "at the foot of a steep path"],
    "orchard": ["under the oldest apple tree", "in an empty fruit crate", "behind the ladder",
                "beneath the low pear branches"],
    "village": ["behind the well", "under a bench in the square", "on the bakery step",
                "beside the school gate"],
    "marsh": ["among the reeds", "on a tuft of soft moss", "under a fallen willow",
              "beside a puddle full of tadpoles"],
    "hill": ["under a blackberry bush", "beside the weather vane", "in a small dip in the grass",
             "behind the tallest rock"],
    "harbor": ["under a coil of rope", "behind a stack of barrels", "at the end of the pier",
               "inside an upturned rowboat"],
    "river": ["under the stone bridge", "among the round pebbles", "beside the ferry post",
              "in the shade of a willow"],
    "lake": ["on a flat warm rock", "under the wooden dock", "among the water lilies",
             "behind the fishing hut"],
    "old mill": ["behind the water wheel", "under a heap of flour sacks", "beside the grinding stone",
                 "at the bottom of the stairs"],
    "sea": ["in a pool between the rocks", "under a tangle of seaweed", "at the top of the dunes",
            "beside a washed-up crate"],
}

PLANTS = ["pumpkin", "sunflower", "rose bush", "apple tree", "bean plant", "melon", "cherry tree",
          "strawberry plant"]
# A present that can be made, and what may be missing while making it.
GIFTS = {"honey cake": ["honey", "flour", "butter"], "plum pie": ["butter", "flour", "sugar"],
         "patchwork quilt": ["thread", "blue cloth", "wool"], "paper crown": ["glue", "gold paper", "ribbon"],
         "wind chime": ["string", "wire", "silver paint"], "warm sweater": ["wool", "yarn", "thread"],
         "jar of berry jam": ["sugar", "lemon juice", "honey"], "birdhouse": ["wood", "glue", "paint"]}
TOOLS = ["rope", "ladder", "plank", "fishing net", "long branch", "blanket"]
GAMES = ["hide and seek", "leapfrog", "tag", "marbles", "hopscotch", "follow the leader"]
TRAPS = ["on a rock in the stream", "in the top of a tall tree", "on a broken bridge",
         "on a drifting raft", "at the bottom of a ditch", "on the roof of a shed"]
FEARS = ["the dark", "thunder", "deep water", "high places", "the old bridge", "strangers"]

# Variables whose values depend on what is bound before them.
DEPENDENT = {"hero", "hero.kind", "friend", "friend.kind", "place2", "place.spot", "place2.spot", "part"}
# Variables that most stories say only a few times.
RARE = {"place", "place2", "place.spot", "place2.spot", "part", "elder", "game"}

FORMS = {"he", "him", "his", "He", "His", "in", "In", "Cap"}
_PRONOUNS = {"f": {"he": "she", "him": "her", "his": "her", "He": "She", "His": "Her"},
             "m": {"he": "he", "him": "him", "his": "his", "He": "He", "His": "His"}}
_GENDER = {**{n: "f" for n in GIRLS + ELDER_WOMEN}, **{n: "m" for n in BOYS + ELDER_MEN}}
_NAMES = GIRLS + BOYS
_OWN = {"hero": _NAMES[::2], "friend": _NAMES[1::2]}
_ELDERS = ELDER_WOMEN + ELDER_MEN
ALL_NAMES = _NAMES + _ELDERS


def form(value, which):
    """One form of a value: a pronoun for a character, a phrase for a place."""
    if not which:
        return value
    if which == "Cap":
        return value[0].upper() + value[1:]
    if which in ("in", "In"):
        phrase = f"{PLACES[value]} the {value}"
        return phrase[0].upper() + phrase[1:] if which == "In" else phrase
    return _PRONOUNS[_GENDER[value]][which]


def _kinds(name):
    """Any animal of heroes, or a child of the name's gender (said twice: a little more often than any one animal)."""
    if name is None:
        return HERO_ANIMALS + ["girl", "boy"]
    return HERO_ANIMALS + ["girl" if _GENDER[name] == "f" else "boy"] * 2


def _names(character, kind):
    own = {"girl": GIRLS, "boy": BOYS}.get(kind, _NAMES)
    return [n for n in _OWN[character] if n in own]


def domain(key, bound):
    """The values a variable may take, given those already bound."""
    if key == "hero":
        return _names("hero", bound.get("hero.kind"))
    if key == "friend":
        return _OWN["friend"]
    if key == "hero.kind":
        return _kinds(bound.get("hero"))
    if key == "place2":
        return [p for p in PLACES if p != bound["place"]]
    if key in ("place.spot", "place2.spot"):
        return SPOTS[bound[key.split(".")[0]]]
    if key == "part":
        return GIFTS[bound["gift"]]
    return _FIXED[key]


_FIXED = {"friend.kind": FRIEND_ANIMALS, "elder": _ELDERS, "elder.role": ROLES, "obj": OBJECTS, "obj.color": COLORS,
          "place": list(PLACES), "plant": PLANTS, "gift": list(GIFTS), "tool": TOOLS,
          "game": GAMES, "trap": TRAPS, "fear": FEARS}
