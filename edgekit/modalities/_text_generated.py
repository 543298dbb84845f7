"""Generated texts that tokenizers treat differently: many scripts, joiners, oddities, pairs, and texts longer than a model takes."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.modalities._text_encoder import Text

# The fuzz set strings pieces of these together.
_ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyz",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
    "äöüßéèêçñøåœÄÖÜÉ",
    "абвгдежзийклмнопрстуфхцчшщъыьэюя",
    "αβγδεζηθικλμνξοπρσςτυφχψω",
    "אבגדהוזחטיכלמנסעפצקרשת",
    "ابتثجحخدذرزسشصضطظعغفقكلمنهوي",
    "अआइईउऊकखगघचछजझटठडढतथदधनपफबभमयरलवशषसह",
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小",
    "あいうえおかきくけこさしすせそアイウエオカキクケコ",
    "가나다라마바사아자차카타파하",
    "กขคงจฉชซญดตถทธนบปผฝพฟมยรลวศสหอฮ",
    "😀😂🥲👍🏽👩‍👩‍👧‍👦🏳️‍🌈🇩🇪☕️",
    " \t\n\r\u00a0\u2003\u200b\u200d\ufeff",
    ".,;:!?'\"()[]{}<>@#$%^&*-_=+/\\|~`…–—„“”«»¿¡",
    "\u0301\u0308\u0327\u0000\u0007\ufffd",
)
_WORDS = (
    "",
    "[MASK]",
    "[CLS]",
    "<s>",
    "</s>",
    "##ing",
    "don't",
    "it 's",
    "e-mail",
    "3.14",
    "https://example.org/a?b=c",
)


_ODD: tuple[Text, ...] = ("", " ", "\n", "a", ("", ""), ("a", ""))
_PAIR_EVERY = 5  # of the texts behind the odd ones


def short_texts(count: int, seed: int = 0, *, pairs: bool = True) -> list[Text]:
    """Generated texts of at most a few dozen tokens: odd ones first, and then one pair in five where there are to be pairs."""
    texts = fuzz_texts(1, 4 * count, seed)[len(_ODD) : -3]
    singles, two = iter(texts[: 4 * count]), iter(texts[4 * count :])
    made: list[Text] = [text for text in _ODD if pairs or isinstance(text, str)]
    made += [next(two) if pairs and place % _PAIR_EVERY == 0 else next(singles) for place in range(1, count + 1)]
    return made[:count]


def fuzz_texts(max_length: int, count: int = 400, seed: int = 0) -> list[Text]:
    """Generated texts and pairs of many scripts: mixed, empty, of blanks only, with special tokens, longer than the model takes."""
    choose = random.Random(seed)

    def text(pieces: int) -> str:
        parts = []
        for _ in range(pieces):
            alphabet = choose.choice(_ALPHABETS)
            parts.append(
                choose.choice(_WORDS)
                if choose.random() < 0.1
                else "".join(choose.choices(alphabet, k=choose.randint(1, 9)))
            )
        return (" " if choose.random() < 0.7 else "").join(parts)

    texts: list[Text] = list(_ODD)
    texts += [text(choose.randint(1, 12)) for _ in range(count)]
    texts += [(text(choose.randint(0, 8)), text(choose.randint(0, 8))) for _ in range(count // 4)]
    longest = min(max_length, 1024)
    texts += [text(longest), (text(longest), text(3)), (text(longest), text(longest))]
    return texts
