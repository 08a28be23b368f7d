"""Requests a reader might type, and the chat document that pairs one with a story."""

from .story import write_story
from .template import compile_template, plain, write
from .world import PLACES

BOS, END, USER, ASSISTANT = "<|bos|>", "<|end|>", "<|user|>", "<|assistant|>"
SPECIALS = [BOS, END, USER, ASSISTANT]

# The same layout as in `_turn` below; a system message is not part of this model's world.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'user' %}<|user|>\n{{ message['content'] | trim }}<|end|>\n"
    "{% elif message['role'] == 'assistant' %}<|assistant|>\n{{ message['content'] | trim }}<|end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

_ASK = """
Tell me {s}.
Tell me {s}
Please tell me {s}.
Write {s}.
Write me {s}.
Please write {s}.
Can you tell me {s}?
Could you write {s}?
Could you tell me {s}, please?
I would like {s}.
I would like to hear {s}.
Make up {s}.
Give me {s}.
Do you know {s}?
Let me hear {s}.
My daughter wants {s}.
Tonight I want {s}.
tell me {s}
write {s}
{s}
""".strip().split("\n")

_ANY = """
Tell me a story.
Tell me a story!
Write a short story.
Once upon a time
Another one, please.
Tell me something.
I cannot sleep.
Read me something.
Surprise me.
Hello!
Hi
Hello, who are you?
What can you do?
How are you today?
Tell me another.
A story, please.
tell me a bedtime story
""".strip().split("\n")

# Things this world does not have: asked for one, the model tells one of its own stories.
_FOREIGN = """
dragon, robot, spaceship, king, queen, princess, wizard, dinosaur, pirate, football, computer, train,
car, volcano, castle, knight, monster, penguin, elephant, tiger, lion, whale, shark, astronaut, planet,
moon, star, telephone, city, school, doctor, teacher, detective, ghost, vampire, unicorn, mermaid,
giant, snowman, desert, jungle, island, airplane, helicopter, truck, bicycle, guitar, piano, pizza,
banana, cheese, chocolate, cookie, soldier, war, treasure, map, cave, mountain, glacier, winter,
Christmas, summer holiday, science, history, weather, money, bank, lawyer, scientist, programmer,
rust compiler, database, kangaroo, crocodile, parrot, snake, spider, butterfly, bee, ant, snail, turtle,
horse, cow, pig, sheep, chicken, wolf, lamp, chair, table, window, door, shoe, clock, mirror, camera,
painting, song, poem, dance, dream, secret, river boat, submarine, engine, language model, grain of sand
""".replace("\n", " ").strip().split(", ")
_FOREIGN_NAMES = ["Alice", "Bob", "Peter", "Sarah", "Max", "Emma", "John", "Anna", "David", "Yuki",
                  "Carlos", "Fatima", "Igor", "Priya", "Zoe", "Lucas", "Sophie", "Ben", "Chen", "Omar"]
_OTHER_TASK = """
What is the capital of France?
What is 2 + 2?
Write a poem about {x}.
Explain how {x} works.
Why is the sky blue?
How do I cook {x}?
Who invented the {x}?
List three facts about {x}.
Translate "{x}" into French.
Summarize the history of the {x}.
What is the meaning of {x}?
Write a function that sorts a list.
Describe {x} in one sentence.
Is {x} better than {y}?
Sing me a song about {x}.
Tell me a joke about {x}.
""".strip().split("\n")


def _article(noun):
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def _nonsense(rng):
    """Letters no one would type on purpose: whatever the request, a story follows."""
    letters = "abcdefghijklmnopqrstuvwxyz" * 3 + "ABCXYZ0123456789.,!?-'"
    return " ".join("".join(rng.choice(letters) for _ in range(rng.randint(1, 9)))
                    for _ in range(rng.randint(1, 7)))


def _foreign_subject(rng, bound):
    x, y = rng.choice(_FOREIGN), rng.choice(_FOREIGN)
    name = rng.choice(_FOREIGN_NAMES)
    choices = [f"a story about {_article(x)}", f"a story about {x}", f"a story about {_article(x)} and {_article(y)}",
               f"a story about {name}", f"a story about {name} and {_article(x)}",
               f"a story about {_article(x)} who meets {_article(y)}", f"a story about {_article(x)} named {name}",
               f"a story about {_nonsense(rng)}"]
    if "obj" in bound:  # Half a wish can be granted.
        choices += [f"a story about {_article(x)} and {_article(bound['obj'])}", f"a story about {name} and {_article(bound['obj'])}"]
    choices += [f"a story about {_article(bound['hero.kind'])} and {_article(x)}",
                f"a story about {bound['hero']} and {_article(x)}",
                f"a story about {_article(x)} {PLACES[bound['place']]} the {bound['place']}"]
    return rng.choice(choices)


def _elements(rng, bound):
    """A wish list drawn from what the story does hold: "a story with Mia and a kite in the forest"."""
    who = rng.choice([bound["hero"], _article(bound["hero.kind"]), f"{_article(bound['hero.kind'])} named {bound['hero']}"])
    parts = [who]
    if rng.random() < 0.4 and "friend" in bound:
        parts.append(rng.choice([bound["friend"], _article(bound["friend.kind"])]))
    if rng.random() < 0.6 and "obj" in bound:
        colored = f"{bound['obj.color']} {bound['obj']}" if "obj.color" in bound and rng.random() < 0.4 else bound["obj"]
        parts.append(_article(colored))
    text = parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
    where = f" {PLACES[bound['place']]} the {bound['place']}" if rng.random() < 0.4 else ""
    return f"a {rng.choice(['', '', '', 'short ', 'little ', 'bedtime '])}story {rng.choice(['with', 'about', 'about'])} {text}{where}"


def _plot_request(rng, bound, plot):
    """One of the plot's own requests; those that name something this story lacks are passed over."""
    for nodes in rng.sample(plot.requests, len(plot.requests)):
        if all(isinstance(n, str) or n[0] == "alt" or n[1] in bound for n in nodes):
            return write(nodes, dict(bound), rng)
    return "a story"


def request_for(rng, bound, plot):
    """Something one might have asked to be told this story."""
    dice = rng.random()
    if dice < 0.42:
        wish = _plot_request(rng, bound, plot)
    elif dice < 0.76:
        wish = _elements(rng, bound)
    elif dice < 0.88:
        wish = _foreign_subject(rng, bound)
    elif dice < 0.94:
        return rng.choice(_ANY)
    elif dice < 0.98:
        x, y = rng.choice(_FOREIGN), rng.choice(_FOREIGN)
        return rng.choice(_OTHER_TASK).replace("{x}", x).replace("{y}", y)
    else:
        return _nonsense(rng)
    asked = rng.choice(_ASK).replace("{s}", wish)
    return asked


def document(rng, pair_share=0.42, mark=plain):
    """One training document: a list of (text, is_target); requests are read but not learned.

    The mark (see template.write) is that of the stories' variables, in the order of the text.
    """
    text, bound, plot = write_story(rng, mark)
    if rng.random() >= pair_share:
        return [(BOS, False), (text + END, True)]
    out = [(BOS, False), *_turn(request_for(rng, bound, plot), text)]
    if rng.random() < 0.1:
        text, bound, plot = write_story(rng, mark)
        out += [("\n", False), *_turn(request_for(rng, bound, plot), text)]
    return out


def _turn(request, story):
    return [(f"{USER}\n{request}{END}\n{ASSISTANT}\n", False), (story + END, True)]
