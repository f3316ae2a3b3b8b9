"""What a machine multiplies fast is told by its flags."""

import pytest

from bigain.utils import hardware


@pytest.fixture
def flags(monkeypatch):
    def have(text: str | None) -> None:
        found = {} if text is None else {"model name": "A processor", "flags": text}
        monkeypatch.setattr(hardware, "_cpuinfo", lambda: found)

    return have


@pytest.mark.parametrize(
    ("text", "name", "half"),
    [
        ("fpu avx2 avx512_bf16 amx_bf16", "cpu-amx_bf16", True),
        ("avx2 avx512_bf16", "cpu-avx512_bf16", True),
        ("fpu avx avx2", "cpu-avx2", False),
        ("fpu", "cpu", False),
        (None, "cpu", False),
    ],
)
def test_the_fastest_instructions_name_a_cpu(flags, text, name, half):
    flags(text)
    assert hardware.hardware("cpu") == name and name in hardware.HARDWARE
    assert hardware.multiplies("bfloat16", "cpu") is half
    assert hardware.multiplies("float32", "cpu") and not hardware.multiplies("float16", "cpu")


def test_a_gpu_multiplies_all():
    assert hardware.hardware("cuda") == "cuda"
    assert hardware.multiplies("bfloat16", "cuda") and hardware.multiplies("float16", "cuda")


def test_the_processor_in_words(flags):
    flags("avx2")
    assert hardware.processor().startswith("A processor, ")
    assert hardware.processor().endswith(" cores, avx2")
    flags(None)
    assert "cores" in hardware.processor()
