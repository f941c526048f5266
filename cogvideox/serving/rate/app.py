"""HTTP API of the rating page."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, FastAPI, HTTPException, Query, Response
from pydantic import BaseModel, Field

from cogvideox.evaluation.human.raters import summarize_raters
from cogvideox.serving.app import create_app, current_person, json_response, require_admin, video_file
from cogvideox.serving.invites import Person
from cogvideox.serving.rate.session import RatingSession
from cogvideox.serving.run import Address

Rater = Annotated[Person, Depends(current_person)]


class Vote(BaseModel):
    """A vote: scores by criterion and total, or choices by question."""

    position: int = Field(ge=0)
    answer: dict[str, float | str]
    seconds: float = Field(ge=0, allow_inf_nan=False)


def rating_app(folder: Path, address: Address) -> FastAPI:
    """Return the application of a study.

    Raises:
        UserError: the folder is not a study.
    """
    session = RatingSession(folder)
    app = create_app(
        "rate",
        session.invites,
        admin_key=address.key,
        hosts=address.allowed_hosts,
        on_shutdown=session.store.close,
    )

    @app.get("/api/study")
    async def overview(person: Rater) -> Response:
        return json_response(session.overview(person))

    @app.post("/api/consent")
    async def consent(person: Rater) -> Response:
        session.consent(person)
        return json_response(session.overview(person))

    @app.get("/api/tasks")
    async def tasks(person: Rater, count: Annotated[int, Query(ge=1, le=10)] = 6) -> Response:
        return json_response(session.tasks(person, count))

    @app.post("/api/votes")
    async def vote(person: Rater, body: Vote) -> Response:
        return json_response(session.vote(person, body.position, body.answer, body.seconds))

    @app.post("/api/undo")
    async def undo(person: Rater) -> Response:
        return json_response(session.undo(person))

    @app.get("/media/{name}.mp4")
    async def media(person: Rater, name: str) -> Response:
        path = session.file(person, name)
        if path is None:
            raise HTTPException(404, "there is no such video")
        return video_file(path)

    @app.get("/api/admin/summary", dependencies=[Depends(require_admin)])
    async def summary() -> Response:
        return json_response(admin_summary(session))

    return app


def admin_summary(session: RatingSession) -> dict[str, Any]:
    """Return progress and statistics of all raters, without models."""
    votes = session.store.votes()
    figures = {row.rater: asdict(row) for row in summarize_raters(session.study, votes)}
    return {
        "title": session.study.title,
        "hash": session.study.hash,
        "stop_rule": session.study.stop_rule,
        "closed": session.store.is_closed(),
        "num_raters": session.study.num_raters,
        "raters": [
            {
                "name": person.name,
                "id": person.id,
                "revoked": person.revoked,
                "done": sum(vote.rater == person.id for vote in votes),
                **figures.get(person.id, {}),
            }
            for person in session.invites.people()
        ],
    }
