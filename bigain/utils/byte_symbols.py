"""The characters that byte-level BPE writes bytes as (GPT-2)."""


def byte_symbols() -> list[str]:
    """A printable character for each of the 256 bytes, by the byte; in CLIP's order if sorted."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]
