"""Damage to bytes and texts, from a flipped bit to a value that no one expects."""

from __future__ import annotations

from random import Random

ODD_TEXTS = (
    "", "0", "-1", "1e-300", "1e400", "nan", "inf", "-0.0", "9" * 30, "9" * 5000, "\u00b2", "\u0663", "[/lab]", "[red]",
    "\x1b[31m", "\x00", "\u202e", "true", "null", "None", "[" * 200, "{" * 200, '"', "'", "\\", "%s", "{0}", "$x$",
    "../../etc/passwd", "/dev/zero", "2147483648", "9223372036854775807", "18446744073709551616", "1e9", "0x10", "1_0",
)  # fmt: skip

ODD_BYTES = (b"\x00", b"\xff", b"\x80" * 9 + b"\x01", b"\x7f", b"\xff" * 9 + b"\x01", b"\n", b"\xc3")


def damaged_bytes(data: bytes, random: Random) -> bytes:
    """One to six changes: bits, bytes, pieces removed, doubled or moved."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        at = random.randrange(len(found) + 1)
        end = min(len(found), at + random.choice((1, 1, 2, 4, 8, 32)))
        how = random.randrange(6)
        if how == 0 and at < len(found):
            found[at] ^= 1 << random.randrange(8)
        elif how == 1 and at < len(found):
            found[at] = random.randrange(256)
        elif how == 2:
            del found[at:end]
        elif how == 3:
            found[at:at] = found[at:end]
        elif how == 4:
            found[at:end] = random.choice(ODD_BYTES)
        else:
            other = random.randrange(len(found) + 1)
            found[other:other] = found[at:end]
    return bytes(found)


def damaged_text(text: str, random: Random) -> str:
    """One to three changes: a word, a number or a line replaced, doubled, removed or swapped; or damaged bytes."""
    for _ in range(random.choice((1, 1, 2, 3))):
        how = random.randrange(6)
        if how == 0:
            text = damaged_bytes(text.encode("utf-8", "surrogatepass"), random).decode("utf-8", "replace")
        elif how < 4:
            text = _other_word(text, random)
        else:
            text = _other_lines(text, random)
    return text


def _other_word(text: str, random: Random) -> str:
    places = [i for i in range(len(text)) if text[i].isalnum() and (i == 0 or not text[i - 1].isalnum())]
    if not places:
        return random.choice(ODD_TEXTS)
    start = random.choice(places)
    end = start
    while end < len(text) and (text[end].isalnum() or text[end] in "._"):
        end += 1
    word = text[start:end]
    if word.isascii() and word.isdigit() and random.random() < 0.6:
        value = int(word[:100])
        new = str(random.choice((0, -value, value + 1, value * 2, value * 1000, value // 2, 2**31, 2**40, 10**20)))
    else:
        new = random.choice((*ODD_TEXTS, word[::-1], word * 2, word.upper()))
    return text[:start] + new + text[end:]


def _other_lines(text: str, random: Random) -> str:
    lines = text.splitlines(keepends=True)
    if not lines:
        return text
    at, other = random.randrange(len(lines)), random.randrange(len(lines))
    how = random.randrange(4)
    if how == 0:
        del lines[at]
    elif how == 1:
        lines.insert(other, lines[at])
    elif how == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        lines[at] = lines[at][: random.randrange(len(lines[at]) + 1)]
    return "".join(lines)
