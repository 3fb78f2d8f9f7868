"""The lexicon of the translation task: English words and their French forms.

Every noun and adjective begins with a consonant, so that no elision or liaison form is needed.
The order matters: the first part of each list is what the base model of the tiny zoo masters.
"""

from __future__ import annotations

from typing import NamedTuple


class Noun(NamedTuple):
    """A noun: English form, French form, and whether it is feminine."""

    english: str
    french: str
    feminine: bool


class Adjective(NamedTuple):
    """An adjective: English form, the two French forms, and whether it precedes its noun."""

    english: str
    masculine: str
    feminine: str
    before: bool


def _pairs(text: str) -> list[tuple[str, str]]:
    """Split "english french, english french" into pairs."""
    return [(pair.split()[0], pair.split()[1]) for pair in text.split(",")]


_MASCULINE = _pairs(
    "dog chien, cat chat, boy garçon, king roi, book livre, garden jardin, horse cheval, "
    "rabbit lapin, wolf loup, baker boulanger, neighbour voisin, doctor médecin, painter peintre, "
    "bridge pont, boat bateau, cake gâteau, bread pain, wine vin, cheese fromage, hat chapeau, "
    "coat manteau, knife couteau, glass verre, carpet tapis, mirror miroir, wall mur, roof toit, "
    "basket panier, bag sac, lemon citron"
)
_FEMININE = _pairs(
    "girl fille, queen reine, house maison, table table, chair chaise, door porte, "
    "window fenêtre, car voiture, town ville, river rivière, mountain montagne, forest forêt, "
    "flower fleur, apple pomme, pear poire, cup tasse, lamp lampe, letter lettre, key clé, "
    "mouse souris, cow vache, goat chèvre, hen poule, dancer danseuse, princess princesse, "
    "tower tour, beach plage, dress robe, stone pierre, spoon cuillère"
)
NOUNS: tuple[Noun, ...] = tuple(
    noun
    for (e1, f1), (e2, f2) in zip(_MASCULINE, _FEMININE, strict=True)
    for noun in (Noun(e1, f1, feminine=False), Noun(e2, f2, feminine=True))
)

_AFTER = (
    "green vert verte, black noir noire, white blanc blanche, blue bleu bleue, grey gris grise, "
    "brown brun brune, round rond ronde, heavy lourd lourde, cold froid froide, "
    "warm chaud chaude, soft doux douce, dry sec sèche, light léger légère, strong fort forte, "
    "slow lent lente, dear cher chère"
)
_BEFORE = (
    "small petit petite, big grand grande, good bon bonne, bad mauvais mauvaise, "
    "pretty joli jolie, fat gros grosse, long long longue, old vieux vieille, "
    "new nouveau nouvelle, beautiful beau belle, high haut haute, first premier première"
)


def _adjectives(text: str, before: bool) -> list[Adjective]:
    """Read "english masculine feminine" triples."""
    triples = [entry.split() for entry in text.split(",")]
    return [Adjective(e, m, f, before) for e, m, f in triples]


_BOTH = (_adjectives(_AFTER, before=False), _adjectives(_BEFORE, before=True))
ADJECTIVES: tuple[Adjective, ...] = tuple(
    kind[i] for i in range(len(_BOTH[0])) for kind in _BOTH if i < len(kind)
)

VERBS: tuple[tuple[str, str], ...] = tuple(
    _pairs(
        "sees voit, takes prend, seeks cherche, finds trouve, loses perd, keeps garde, sells vend, "
        "gives donne, hides cache, touches touche, follows suit, watches regarde, wants veut, "
        "holds tient, washes lave, breaks casse, mends répare, draws dessine, paints peint, "
        "cleans nettoie, chooses choisit, steals vole, pushes pousse, pulls tire"
    )
)

ADVERBS: tuple[tuple[str, str], ...] = (
    ("often", "souvent"),
    ("always", "toujours"),
    ("still", "encore"),
    ("already", "déjà"),
)

DETERMINERS: tuple[tuple[str, str, str], ...] = (
    ("the", "le", "la"),
    ("a", "un", "une"),
    ("my", "mon", "ma"),
    ("this", "ce", "cette"),
    ("your", "ton", "ta"),
)
