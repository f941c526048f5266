"""HTTP API of the annotation page."""

import asyncio
import math
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field

from cogvideox.curation.labels.definitions import LABELS
from cogvideox.serving.annotate.clips import CACHE
from cogvideox.serving.annotate.examples import EXAMPLES, example_file
from cogvideox.serving.annotate.feeds import Feed
from cogvideox.serving.annotate.progress import compute_progress
from cogvideox.serving.annotate.session import AnnotationSession
from cogvideox.serving.app import create_app, current_person, json_response, require_admin, video_file
from cogvideox.serving.invites import Person
from cogvideox.serving.run import Address

Annotator = Annotated[Person, Depends(current_person)]


class Answer(BaseModel):
    """The labels of a clip; none for a clip without defects."""

    clip: str = Field(max_length=64)
    labels: list[str] = Field(max_length=len(LABELS))
    unsure: bool = False
    seconds: float = Field(ge=0, allow_inf_nan=False)


def annotation_app(session: AnnotationSession, address: Address) -> FastAPI:
    """Return the application of a session."""
    app = create_app(
        "annotate", session.invites, admin_key=address.key, hosts=address.allowed_hosts, on_shutdown=session.store.close
    )

    @app.get("/api/overview")
    async def overview(person: Annotator) -> Response:
        return json_response(session.overview(person))

    @app.post("/api/consent")
    async def consent(person: Annotator) -> Response:
        session.consent(person)
        return json_response(session.overview(person))

    @app.get("/api/next")
    async def next_clips(
        person: Annotator,
        count: Annotated[int, Query(ge=1, le=10)] = 6,
        feed: Feed = "mixed",
        label: Annotated[str, Query(max_length=32)] = "",
    ) -> Response:
        return json_response(session.next(person, count, feed, label))

    @app.post("/api/annotations")
    async def annotate(person: Annotator, body: Answer) -> Response:
        return json_response(session.annotate(person, body.clip, body.labels, body.unsure, body.seconds))

    @app.post("/api/undo")
    async def undo(person: Annotator) -> Response:
        return json_response(session.undo(person))

    @app.get("/clips/{id}.mp4")
    async def clip(person: Annotator, id: str) -> Response:
        if not session.may_see(person, id):
            raise HTTPException(404, "there is no such clip")
        return video_file(await asyncio.to_thread(session.clips.playable, id))

    @app.get("/examples/{label}/{index}.mp4")
    async def example(person: Annotator, label: str, index: int) -> Response:
        if label not in EXAMPLES or not 0 <= index < len(EXAMPLES[label]):
            raise HTTPException(404, "there is no such example")
        return video_file(await asyncio.to_thread(example_file, session.output / CACHE, label, index))

    @app.get("/api/admin/summary", dependencies=[Depends(require_admin)])
    async def summary() -> Response:
        return json_response(_without_nan(admin_summary(session)))

    return app


def admin_summary(session: AnnotationSession) -> dict[str, Any]:
    """Return progress, agreement by label and statistics of all annotators."""
    people = {person.id: person for person in session.invites.people()}
    summary: dict[str, Any] = asdict(compute_progress(session.store))
    for row in summary["annotators"]:
        person = people.get(row["annotator"])
        row["name"] = person.name if person else row["annotator"]
    summary["agreement"] = [{"title": LABELS[name].title, **alpha} for name, alpha in summary["agreement"].items()]
    return {**summary, "total": len(session.pool.ids), "has_predictions": bool(session.pool.probabilities)}


def _without_nan(value: Any) -> Any:
    """Replace NaN by None, which JSON can express."""
    if isinstance(value, dict):
        return {key: _without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(inner) for inner in value]
    return None if isinstance(value, float) and math.isnan(value) else value
