"""The scenarios of planted cohorts, one sentence each."""

#: What the log-hazard depends on, by name.
SCENARIOS = {
    "coarse": "the burden of the 5x pattern",
    "fine": "the burden of the 20x pattern",
    "sum": "the sum of both burdens",
    "product": "the product of both burdens",
    "colocation": "how much of the 20x pattern lies within the 5x pattern",
    "neighbour": "how much of the 20x pattern lies in the 5x cells beside those of the 5x pattern",
    "middle": "the burden of a 10x pattern",
    "middle-coarse": "the product of the 10x and the 5x burden",
    "middle-fine": "the product of the 10x and the 20x burden",
    "middle-inside": "how much of the 10x pattern lies within the 5x pattern",
    "rare": "a 20x pattern in at most 3 % of the tokens",
    "three-way": "how much of the 20x pattern lies where the 5x and the 10x pattern are both or neither",
}

#: Those that slides can have; the others are for bags.
OF_SLIDES = ("coarse", "fine", "sum", "product", "colocation")
