"""What the report page holds, and how it becomes HTML."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import jinja2
from PIL import Image

from bigain.errors import BiGainError
from bigain.reporting.answer import RULE, Answer
from bigain.utils.tables import DASH

TEMPLATE = "report.html.j2"
LARGEST = 5_000_000  # bytes that the page is meant to stay under; `report` says when it does not
PICTURE = 24_000  # bytes of a picture, beyond which it is compressed with small losses
QUALITY = 85  # with which such a picture is compressed
# the columns that stand first have headers that begin with these
WANTED = ("Accuracy", "mAP", "Difference", "FID", "GFLOPs", "of which", "Time")


@dataclass(frozen=True)
class Text:
    """What a printed table says in one place, and what sorts it, None for a dash.

    >>> Text("81.8 [78.2, 84.9]").interval
    '[78.2, 84.9]'
    """

    text: str
    value: float | None = None

    @property
    def interval(self) -> str:
        """The part in brackets; may be empty."""
        _, bracket, rest = self.text.partition("[")
        return bracket + rest

    @property
    def number(self) -> str:
        """What stands before the brackets."""
        return self.text.partition("[")[0].strip()


@dataclass(frozen=True)
class Part:
    """A row's entry for one task, and how its numbers were made.

    Attributes:
        state: a word of `bigain.reporting.status.State`.
        detail: the state in full.
        command: the command that makes it again.
        run: the name of its folder; None before it has begun.
        cost: what the run cost, in words; may be empty.
        sessions: what computed it, one line each.
        about: device and versions of each session, under the names that the page's header uses.
    """

    task: str
    state: str
    detail: str
    command: str
    run: str | None = None
    cost: str = ""
    sessions: Sequence[str] = ()
    about: Sequence[Mapping[str, str]] = ()


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        name: what the experiment calls it, such as lgtm@0.5, which the filter finds as well.
        texts: what stands to the right of the method's name.
    """

    method: str
    name: str
    baseline: bool
    texts: Sequence[Text]
    parts: Sequence[Part]


@dataclass(frozen=True)
class Table:
    """A table; ``headers`` are those right of "Method", with whether their column is of numbers."""

    title: str
    headers: Sequence[tuple[str, bool]]
    lines: Sequence[Line]

    @property
    def constant(self) -> dict[int, str]:
        """The columns that say the same in every row, by their place, and what they say.

        A table of fewer than three rows has none, and neither do dashes.
        """
        found = {}
        for place in range(len(self.headers)):
            texts = {line.texts[place].text for line in self.lines} - {DASH}
            if len(self.lines) > 2 and len(texts) == 1:
                found[place] = texts.pop()
        return found

    @property
    def said(self) -> str:
        """The constant columns in words; may be empty."""
        found = [(self.headers[i][0], text) for i, text in self.constant.items()]
        # what "of which" refers to may not be among them
        return ", ".join(f"{name.replace('of which', 'GFLOPs of')} {text}" for name, text in found)

    @property
    def columns(self) -> list[int]:
        """The places of the columns that are shown, those that most readers want first."""
        left = [i for i in range(len(self.headers)) if i not in self.constant]
        return sorted(left, key=lambda i: not self.headers[i][0].startswith(WANTED))


@dataclass(frozen=True)
class Picture:
    """A figure's file.

    Attributes:
        source: its data URI.
        size: width and height in pixels.
        stale: whether its runs have changed since it was drawn.
    """

    name: str
    alt: str
    source: str
    size: tuple[int, int]
    stale: bool = False


@dataclass(frozen=True)
class Section:
    """An experiment.

    Attributes:
        label: its name in the list of contents, such as "Table 4".
        commands: those that make it.
        note: the protocol, and what it can and cannot show.
        legend: paragraphs that say what the columns mean.
        missing: the number of figures that have not been drawn.
        stale: whether the numbers in its table's files differ from the store's.
        problem: why it cannot be shown; None if it can.
    """

    name: str
    label: str
    title: str
    commands: Sequence[str]
    note: str = ""
    legend: Sequence[str] = ()
    tables: Sequence[Table] = ()
    pictures: Sequence[Picture] = ()
    missing: int = 0
    stale: bool = False
    problem: str | None = None

    @property
    def parts(self) -> list[Part]:
        return [part for table in self.tables for line in table.lines for part in line.parts]

    @property
    def progress(self) -> str:
        return f"{sum(part.state == 'done' for part in self.parts)}/{len(self.parts)}"

    @property
    def complete(self) -> bool:
        return self.problem is None and all(part.state == "done" for part in self.parts)


@dataclass(frozen=True)
class Opening:
    """What the page opens with.

    Attributes:
        answers: one per model, with its figure.
        source: the section that the numbers come from; None if there is none.
        missing: what to run if there is no answer yet.
    """

    answers: Sequence[tuple[Answer, Picture | None]] = ()
    source: Section | None = None
    missing: str = ""


def render(
    scale: str,
    sections: Sequence[Section],
    models: Sequence[str],
    states: Mapping[str, int],
    opening: Opening,
) -> str:
    """The page.

    Args:
        models: and their data, as titles.
        states: number of different runs by the word of their state.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = {part.run: part for s in sections for part in s.parts if part.run is not None}
    about = [each for part in parts.values() for each in part.about]
    return environment.get_template(TEMPLATE).render(
        scale=scale,
        sections=sections,
        models=models,
        states=states,
        opening=opening,
        rule=RULE,
        dash=DASH,
        devices=_distinct(about, "device"),
        versions={key: _distinct(about, key) for key in ("torch", "diffusers", "python")},
    )


def embedded(path: Path) -> tuple[str, tuple[int, int]]:
    """A figure's file as a compact data URI, and its size.

    Raises:
        BiGainError: if the file cannot be read.
    """
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except OSError as error:
        raise BiGainError(
            f"{path} cannot be read ({error}); delete it and draw it again"
        ) from error
    data = _webp(picture, lossless=True, quality=100)
    if len(data) > PICTURE:
        data = min(data, _webp(picture, quality=QUALITY), key=len)
    return f"data:image/webp;base64,{base64.b64encode(data).decode()}", picture.size


def _webp(picture: Image.Image, **options: int) -> bytes:
    made = BytesIO()
    picture.save(made, "WEBP", method=4, **options)
    return made.getvalue()


def _distinct(about: Sequence[Mapping[str, str]], key: str) -> list[str]:
    return list(dict.fromkeys(each[key] for each in about if key in each))
