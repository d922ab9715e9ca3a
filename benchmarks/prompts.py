"""Prompts written for the benchmarks, in three lengths (in tokens of the default model), and prompts drawn from files."""

import random
from pathlib import Path

import noiser
from noiser.data import read
from noiser.experiments.screening import screen

SEED = 19

ABOUT_10 = (
    "The Eiffel Tower is located in the city of",
    "The largest planet in our solar system is called",
    "The currency that people use in Japan is the",
    "The play Romeo and Juliet was written by William",
    "Pure water begins to freeze at a temperature of zero degrees",
    "In English, the opposite of the word hot is the word",
    "The first president of the United States was George",
    "In summer, bees fly out and collect nectar to make",
)
ABOUT_20 = (
    "My neighbour grew up in Lisbon, and to this day she speaks to her mother every single evening in",
    "When the bell rang at noon, all the children put their books away and ran out of the small",
    "The recipe says that you should mix the flour with two eggs, some sugar and a cup of warm",
    "It was a grey morning, and she opened her umbrella as soon as she felt the first drops of",
    "After the long flight to Tokyo, the first thing that he wanted to eat was a big bowl of",
    "The doctor listened to his heart for a while, frowned, and told him that he should stop smoking",
    "In winter the lake is frozen so hard that people walk straight across it instead of taking the",
    "The whole orchestra fell silent, the conductor slowly raised her arms, and the violins began to",
)
ABOUT_42 = (
    "The museum opened in a former railway station by the river. Its founder, a banker who never learned to draw, "
    "left it all of his paintings. Today visitors come from all over the world to see the",
    "Dear Sir, thank you for your letter of the third of March. We have looked into the matter carefully and regret that "
    "the parcel was lost on its way to Vienna. We will of course refund the full",
    "To build the shelf you need four boards, twelve screws and a drill. First measure the wall twice and mark the height "
    "with a pencil. Then drill the holes, put in the plugs, and tighten every one of the",
    "The river rises in the mountains of Switzerland, flows north through Germany, and passes vineyards, castles and large "
    "factories on its way. After more than a thousand kilometres it finally reaches the sea in the",
    "Anna packed her skis, two warm sweaters and a thick novel, because the forecast promised snow for the whole week. When "
    "the train at last arrived in the small Austrian village, all the roofs were",
    "The committee met on Tuesday to discuss the new bridge. The engineers explained why the old one could no longer carry "
    "heavy lorries, and the treasurer explained why nobody could pay for a new",
    "Penguins cannot fly, but under water their wings work like those of other birds in the air. They dive for fish and "
    "krill, and on land they keep warm by standing close together in the freezing cold of",
    "The program reads every line of the file, splits it at the commas and adds up the third column. If a line is empty, it "
    "is skipped; if a number cannot be read, the program prints an error and",
)
BY_LENGTH = {"10": ABOUT_10, "20": ABOUT_20, "42": ABOUT_42}


def drawn(lm: noiser.LanguageModel, name: str, file: Path, lengths: range, count: int) -> list[str]:
    """The first `count` rows of a set, in an order drawn with SEED, that the model answers and that have so many tokens."""
    data = read(name, file)
    rows = [row for row in data.rows if not row.error and len(lm.prompt(row.prompt)) in lengths]
    found = screen(lm, random.Random(SEED).sample(rows, len(rows)), data.match, count)
    return [str(each.row.prompt) for each in found if each.answered][:count]
