"""Two annotators label 60 clips by keyboard in a real browser, with undo, a reload and a killed server."""

import json
from collections import defaultdict

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")

from cogvideox.curation.annotations.store import STORE, AnnotationStore
from cogvideox.curation.labels.definitions import LABELS
from cogvideox.serving.annotate.progress import compute_progress
from tests.serving.server import axe_violations, chromium, cogvideox, invite, serving
from tests.unit.serving.curation import write_curation

NUM_CLIPS = 60
NAMES = list(LABELS)


def expected_labels(person: int, clip: str) -> tuple[str, ...] | None:
    """Return what a person answers: two labels, one, none, or unsure (None). The second person differs sometimes."""
    number = int(clip, 16)
    if number % 13 == 5:
        return None
    labels = {NAMES[number % 6], NAMES[number % 4]} if number % 3 else set()
    if person == 1 and number % 7 == 0:
        labels ^= {NAMES[0]}
    return tuple(name for name in NAMES if name in labels)


class Annotator:
    """A person at the page."""

    def __init__(self, browser, url: str, secret: str, number: int) -> None:
        self.page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        self.errors: list[str] = []
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.goto(f"{url}/i/{secret}")
        self.page.wait_for_selector("#welcome[open]")
        self.page.keyboard.press("Enter")
        self.number, self.answered = number, {}
        self.clip = ""
        self.wait()

    def wait(self) -> None:
        """Wait until the next clip is shown, or until there is none."""
        shown = f"#work[data-clip]:not([data-clip=''],[data-clip='{self.clip}'])"
        self.page.wait_for_selector(shown, state="attached", timeout=60_000)
        clip = str(self.page.locator("#work").get_attribute("data-clip"))
        self.clip = "" if clip == "none" else clip

    def answer(self) -> None:
        labels = expected_labels(self.number, self.clip)
        answered = self.clip
        for name in labels or ():
            self.page.keyboard.press(str(NAMES.index(name) + 1))
        self.page.keyboard.press("u" if labels is None else "Enter" if labels else "0")
        self.wait()
        self.answered[answered] = labels

    def undo(self) -> None:
        before = self.clip
        self.page.keyboard.press("Backspace")
        self.wait()
        assert self.clip in self.answered and self.clip != before
        pressed = self.page.locator('[data-label][aria-pressed="true"]')
        shown = {button.get_attribute("data-label") for button in pressed.all()}
        assert shown == set(self.answered.pop(self.clip) or ())
        for name in shown:  # start from nothing
            self.page.keyboard.press(str(NAMES.index(str(name)) + 1))

    def reload(self) -> None:
        before, self.clip = self.clip, ""
        self.page.reload()
        self.wait()
        assert self.clip == before


def test_sixty_clips_by_two_annotators(tmp_path):
    write_curation(tmp_path, NUM_CLIPS, frames=3)
    output = tmp_path / "out"
    options = ("--raw", str(tmp_path / "raw"), "--overlap", "1")
    secrets = invite("annotate", output, "Ann", "Bo")
    with chromium() as browser, serving("annotate", output, *options) as server:
        people = [Annotator(browser, server.url, secret, index) for index, secret in enumerate(secrets)]
        assert axe_violations(people[0].page) == []
        for step in range(30):
            for person in people:
                person.answer()
            if step in (7, 20):
                people[0].undo()
        people[1].reload()
        server.kill()
        acknowledged = [dict(person.answered) for person in people]
        server.start()
        for index, person in enumerate(people):
            person.clip = ""
            person.page.reload()
            person.wait()
            assert person.clip not in acknowledged[index]
        while any(person.clip for person in people):
            for person in people:
                if person.clip:
                    person.answer()
        elsewhere = browser.new_context().new_page()  # consent is that of the person, not of the browser
        elsewhere.goto(f"{server.url}/i/{secrets[0]}")
        elsewhere.wait_for_selector("#work[data-clip]", state="attached")
        assert elsewhere.locator("#welcome[open]").count() == 0
        people[0].page.goto(f"{server.url}/admin")
        people[0].page.wait_for_selector("text=by two or more people")
        assert axe_violations(people[0].page) == []
        assert [person.errors for person in people] == [[], []]
    ids = [f"{index:024x}" for index in range(NUM_CLIPS)]
    with AnnotationStore(output / STORE, read_only=True) as store:
        given: dict[str, dict[str, tuple[str, ...] | None]] = defaultdict(dict)
        for event in store.annotations(skipped=True):
            given[event.annotator][event.clip_id] = None if event.kind == "skip" else event.labels
        progress = compute_progress(store)
        assert sum(event.kind == "undo" for event in store.events()) == 2
        assert store.consents().keys() == given.keys()
    first, second = sorted(given)
    for index, annotator in enumerate((first, second)):
        assert given[annotator] == {clip: expected_labels(index, clip) for clip in ids}
        assert acknowledged[index].items() <= given[annotator].items()
    for name in NAMES:
        pairs = [
            (name in labels, name in (given[second][clip] or ()))
            for clip, labels in given[first].items()
            if labels is not None
        ]
        assert progress.agreement[name].value == pytest.approx(alpha_by_hand(pairs))
    assert progress.agreement["editing"].value < 1 == progress.agreement["text"].value
    round_trip(output, tmp_path / "again")


def alpha_by_hand(pairs: list[tuple[bool, bool]]) -> float:
    """Return Krippendorff's alpha of two annotators and binary answers: 1 - Do / De."""
    observed = sum(a != b for a, b in pairs) / len(pairs)
    ones, total = sum(a + b for a, b in pairs), 2 * len(pairs)
    return 1 - observed / (2 * ones * (total - ones) / (total * (total - 1)))


def round_trip(output, again) -> None:
    """Export the annotations to Label Studio's JSON and import them into another store."""
    cogvideox("labels", "export", output, output / "tasks.json")
    tasks = json.loads((output / "tasks.json").read_text())
    assert len(tasks) == NUM_CLIPS and all(len(task["annotations"]) == 2 for task in tasks)
    again.mkdir()
    cogvideox("labels", "import", again, output / "tasks.json")
    with AnnotationStore(output / STORE, read_only=True) as first, AnnotationStore(again / STORE) as second:
        key = [(e.clip_id, e.annotator, e.labels, e.kind, e.seconds) for e in first.annotations(skipped=True)]
        assert sorted(key) == sorted(
            (e.clip_id, e.annotator, e.labels, e.kind, e.seconds) for e in second.annotations(skipped=True)
        )
