"""Prompts with several documents, of which one or two are needed for the answer. Everything in them is invented and drawn with a seed.

A document is a small report about a village: an opening, one fact, and further sentences. A fact says which person did something there.

one   "Who built the stone bridge of X?": one document has the fact.
both  "Who built the bridge of X, and who cast the bell of Y?": two documents have one fact each; the answer names both persons.
hop   "In which town does the builder of the bridge of X live?": one document says who that is, another says where that person lives.

Distractors share words with the question: the same deed in another village, and another deed in the same village. In `hop`, other
builders and their towns are there too. All others tell another deed of another village.
"""

import random
from dataclasses import dataclass

SEED = 20
KINDS = ("one", "both", "hop")
PLACES = (
    "Veldum", "Arnholt", "Brisk Hollow", "Corvane", "Dunmarrow", "Eskerby", "Farholm", "Glimsted", "Harrowick", "Isenford", "Jorvale",
    "Kelmoor", "Lindhal", "Marstow", "Nethercombe", "Ostwick", "Penhallow", "Quarrendale", "Ravensey", "Selbrook", "Tarnwell", "Ulverby",
    "Wexmoor", "Yarrowfield", "Zellin", "Ashmere", "Birchgate", "Cindermouth", "Drakeford", "Elmsworth", "Fennimore", "Greyling",
    "Hollowmere", "Ivelton", "Juniper Cross", "Kestrel Bay", "Lowgarth", "Millhaven", "Norcastle", "Oxley Green",
)  # fmt: skip
GIVEN = (
    "Oskar", "Milena", "Tobias", "Ingrid", "Walter", "Helena", "Bruno", "Clara", "Dmitri", "Esther", "Felix", "Greta", "Hugo", "Irene",
    "Jasper", "Karin", "Leopold", "Martha", "Nadia", "Philip", "Quentin", "Rosa", "Simon", "Theresa", "Ursula", "Victor", "Wanda", "Xavier",
    "Yvonne", "Albert", "Boris", "Cecil", "Daphne", "Edgar", "Fiona", "George", "Hilda", "Ivan", "Julia", "Kurt",
)  # fmt: skip
SURNAMES = (
    "Brandt", "Roth", "Lindqvist", "Marsh", "Okell", "Pryce", "Sandoval", "Tveit", "Underhill", "Vance", "Whitlock", "Yates", "Ackroyd",
    "Bellamy", "Croft", "Delacroix", "Ellery", "Frost", "Garrick", "Hale",
)  # fmt: skip
TOWNS = (
    "Bergen", "Toledo", "Ghent", "Lucca", "Krakow", "Dover", "Malmo", "Porto", "Salzburg", "Utrecht", "Verona", "York", "Avignon", "Cadiz",
    "Freiburg", "Inverness", "Limerick", "Nantes", "Odessa", "Riga",
)  # fmt: skip
"""Towns are real, so that their names are easy to say; that these persons live there is invented."""
DEEDS = (
    ("built the stone bridge", "the stone bridge", "The stone bridge of {place} was built by {person}.", "The bridge was built by"),
    ("cast the great bell", "the great bell", "The great bell of {place} was cast by {person}.", "The bell was cast by"),
    ("painted the market hall", "the market hall", "The market hall of {place} was painted by {person}.", "The hall was painted by"),
    ("planted the old orchard", "the old orchard", "The old orchard of {place} was planted by {person}.", "The orchard was planted by"),
    ("repaired the tower clock", "the tower clock", "The tower clock of {place} was repaired by {person}.", "The clock was repaired by"),
    ("drew the oldest map", "the oldest map", "The oldest map of {place} was drawn by {person}.", "The map was drawn by"),
    ("founded the village school", "the village school", "The village school of {place} was founded by {person}.",
     "The school was founded by"),
    ("dug the deep well", "the deep well", "The deep well of {place} was dug by {person}.", "The well was dug by"),
    ("carved the wooden gate", "the wooden gate", "The wooden gate of {place} was carved by {person}.", "The gate was carved by"),
    ("designed the public garden", "the public garden", "The public garden of {place} was designed by {person}.",
     "The garden was designed by"),
)  # fmt: skip
"""What somebody did, the thing, the sentence of the report, and how the answer begins."""
OPENINGS = (
    "{place} lies {far} miles from the coast, between two low hills.",
    "About {many} people live in {place}, most of them along the main road.",
    "Visitors reach {place} by the road from the {side}.",
    "In {year} a traveller called {place} the quietest village of the valley.",
    "The council of {place} meets on the first {day} of the month.",
    "{place} is known for its {goods}.",
)
MORE = (
    "The winter of {year} was long, and the river froze for {few} weeks.",
    "Every {day} there is a small market with {goods} and bread.",
    "A new roof was paid for by the families who lived nearby.",
    "It was closed for {few} months while the road was mended.",
    "Nobody remembers a summer as dry as that of {year}.",
    "Children are told about it on the last {day} of the school year.",
    "Most of the {goods} of the region is still sold here.",
    "The costs were higher than expected, and a loan was paid back in {year}.",
    "A photograph from {year} hangs in the town hall.",
    "In autumn the path to the {side} is often under water.",
    "Some farmers complained about the noise, but work went on.",
    "It still looks much as it did in {year}.",
)
TITLES = ("{place}", "Notes on {place}", "{place} in brief", "A visit to {place}")
HOMES = ("{person} now lives in {town}.", "{person} lives in {town}, in a house near the station.")


@dataclass(frozen=True)
class Needle:
    """A generated prompt: documents, a question that ends where the answer begins, the answer, and the documents that it needs."""

    id: str
    kind: str
    documents: tuple[dict[str, str], ...]
    question: str
    answer: str
    needed: tuple[int, ...]
    """Positions of the needed documents."""
    distractors: tuple[int, ...]
    """Positions of those that share words with the question."""


def make(kind: str, count: int, number: int) -> Needle:
    """The prompt of this kind, number of documents, and number in its series. The same arguments give the same prompt."""
    rng = random.Random(f"{SEED} {kind} {count} {number}")
    makers = {"one": _one, "both": _both, "hop": _hop}
    persons: list[str] = rng.sample(list(GIVEN), len(GIVEN))
    places: list[str] = rng.sample(list(PLACES), len(PLACES))
    people = [f"{given} {rng.choice(SURNAMES)}" for given in persons]
    question, answer, needed, near = makers[kind](rng, people, places)
    near = near[: count - len(needed)]
    used = {place for place, _ in (*needed, *near)}
    free_people, free_places = people[-(count + 1) :], [place for place in places if place not in used]
    facts = [*needed, *near]
    while len(facts) < count:
        place, person = free_places[len(facts) % len(free_places)], free_people[len(facts) % len(free_people)]
        facts.append((place, rng.choice(DEEDS[5:])[2].format(place=place, person=person)))
    order = rng.sample(range(count), count)
    documents = [_document(rng, *facts[place]) for place in order]
    titles: dict[str, int] = {}
    for document in documents:
        titles[document["title"]] = titles.get(document["title"], 0) + 1
        if titles[document["title"]] > 1:
            document["title"] += f" ({titles[document['title']]})"
    find = {place: position for position, place in enumerate(order)}
    first = tuple(sorted(find[each] for each in range(len(needed))))
    second = tuple(sorted(find[each] for each in range(len(needed), len(needed) + len(near))))
    return Needle(f"{kind}-{count}-{number}", kind, tuple(documents), question, answer, first, second)


Fact = tuple[str, str]
"""A village and a sentence about it."""
Asked = tuple[str, str, list[Fact], list[Fact]]
"""The question, the answer, the needed facts and the distractors."""


def _one(rng: random.Random, people: list[str], places: list[str]) -> Asked:
    deed, *others = rng.sample(DEEDS[:5], 5)
    place, person = places[0], people[0]
    question = f"Question: Who {deed[0]} of {place}?\nAnswer: {deed[3]}"
    near = [(places[1], deed, people[1]), (place, others[0], people[2]), (places[2], deed, people[3]), (place, others[1], people[4])]
    return question, f" {person}", [(place, deed[2].format(place=place, person=person))], _facts(near)


def _both(rng: random.Random, people: list[str], places: list[str]) -> Asked:
    first, second, *others = rng.sample(DEEDS[:5], 5)
    question = f"Question: Who {first[0]} of {places[0]}, and who {second[0]} of {places[1]}?\nAnswer: Their names are"
    needed = _facts([(places[0], first, people[0]), (places[1], second, people[1])])
    near = [(places[2], first, people[2]), (places[3], second, people[3]), (places[0], others[0], people[4])]
    return question, f" {people[0]} and {people[1].split()[0]}", needed, _facts(near)


def _hop(rng: random.Random, people: list[str], places: list[str]) -> Asked:
    deed, *others = rng.sample(DEEDS[:5], 5)
    towns = rng.sample(TOWNS, 3)
    what = deed[0]
    question = f"Question: In which town does the person live who {what} of {places[0]}?\nAnswer: The person lives in"
    home = [rng.choice(HOMES).format(person=person, town=town) for person, town in zip(people[:3], towns, strict=True)]
    needed = [*_facts([(places[0], deed, people[0])]), (places[3], home[0])]
    near = [(places[1], deed[2].format(place=places[1], person=people[1])), (places[4], home[1]),
            (places[0], others[0][2].format(place=places[0], person=people[2])), (places[5], home[2])]  # fmt: skip
    return question, f" {towns[0]}", needed, near


def _facts(known: list[tuple[str, tuple[str, ...], str]]) -> list[Fact]:
    return [(place, deed[2].format(place=place, person=person)) for place, deed, person in known]


def _document(rng: random.Random, place: str, fact: str) -> dict[str, str]:
    """The fact, after an opening or without one, and up to two more sentences."""

    def fill(template: str) -> str:
        return template.format(
            place=place, far=rng.randint(3, 40), many=100 * rng.randint(2, 30), side=rng.choice(("north", "south", "east", "west")),
            year=rng.randint(1820, 1980), day=rng.choice(("Monday", "Tuesday", "Friday", "Saturday")),
            goods=rng.choice(("wool", "honey", "apples", "salt", "pottery", "cheese")), few=rng.choice(("two", "three", "five")),
        )  # fmt: skip

    before, after = rng.choice(((1, 0), (1, 0), (0, 1), (0, 1), (1, 1), (0, 2)))
    sentences = [*map(fill, rng.sample(OPENINGS, before)), fact, *map(fill, rng.sample(MORE, after))]
    return {"title": rng.choice(TITLES).format(place=place), "text": " ".join(sentences)}
