"""Generated texts that exercise a tokenizer.

They have many scripts, joiners, special tokens, empty texts, pairs, and texts beyond a model's limit.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekit.modalities._text_encoder import Text

# Generated texts are joined from pieces of these alphabets and words.
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
_PAIR_EVERY = 5  # Every fifth text behind the odd ones is a pair.


def short_texts(count: int, seed: int = 0, *, pairs: bool = True) -> list[Text]:
    """Return generated texts of at most a few dozen tokens, odd ones first.

    Args:
        count: Number of texts.
        seed: Random seed.
        pairs: Whether some texts are pairs: every fifth one behind the odd ones.
    """
    generated = fuzz_texts(1, 4 * count, seed)[len(_ODD) : -3]
    singles = iter(generated[: 4 * count])
    doubles = iter(generated[4 * count :])
    texts: list[Text] = [text for text in _ODD if pairs or isinstance(text, str)]
    for number in range(1, count + 1):
        is_pair = pairs and number % _PAIR_EVERY == 0
        texts.append(next(doubles if is_pair else singles))
    return texts[:count]


def fuzz_texts(max_length: int, count: int = 400, seed: int = 0) -> list[Text]:
    """Return generated texts and pairs.

    They are of mixed scripts, empty, of white space only, with special tokens, or longer than the model's limit.

    Args:
        max_length: Length of the model's longest row, in tokens; the last three texts have as many pieces, at most
            1024.
        count: Number of single texts of ordinary length; a quarter as many pairs follow.
        seed: Random seed.
    """
    rng = random.Random(seed)

    def text(pieces: int) -> str:
        parts = []
        for _ in range(pieces):
            alphabet = rng.choice(_ALPHABETS)
            if rng.random() < 0.1:
                parts.append(rng.choice(_WORDS))
            else:
                parts.append("".join(rng.choices(alphabet, k=rng.randint(1, 9))))
        separator = " " if rng.random() < 0.7 else ""
        return separator.join(parts)

    texts: list[Text] = list(_ODD)
    texts += [text(rng.randint(1, 12)) for _ in range(count)]
    texts += [(text(rng.randint(0, 8)), text(rng.randint(0, 8))) for _ in range(count // 4)]
    longest = min(max_length, 1024)
    texts += [text(longest), (text(longest), text(3)), (text(longest), text(longest))]
    return texts
