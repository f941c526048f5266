"""The FastAPI application that the pages share: static files, sessions by invitation, the admin key, errors."""

import secrets
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from cogvideox.errors import UserError
from cogvideox.serving.invites import Invites, Person
from cogvideox.serving.limits import Guard, Limits

PAGES = Path(__file__).parent / "pages"
_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


def create_app(
    page: str,
    invites: Invites,
    *,
    admin_key: str = "",
    hosts: Collection[str] | None = None,
    limits: Limits | None = None,
    on_shutdown: Callable[[], None] | None = None,
) -> FastAPI:
    """Return an application that serves a page of `pages/` at `/`, its administration at `/admin`, and `pages/kit`.

    Args:
        admin_key: administrator key; "" for none, on a loopback server.
        hosts: accepted host names; None accepts any.
        on_shutdown: called when the server stops.
    """
    limits = limits or Limits()
    app = FastAPI(title=f"cogvideox {page}", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.invites, app.state.admin_key = invites, admin_key
    app.state.cookie = f"cogvideox-{page}"
    app.add_middleware(Guard, limits=limits, hosts=hosts)
    if on_shutdown is not None:
        app.router.on_shutdown.append(on_shutdown)
    app.add_exception_handler(UserError, lambda _, error: _error(400, str(error)))
    app.add_exception_handler(RequestValidationError, lambda *_: _error(422, "the request has missing or wrong fields"))
    app.add_exception_handler(StarletteHTTPException, _http_error)

    @app.get("/")
    async def index() -> Response:
        return static_file(f"{page}/index.html")

    @app.get("/admin")
    async def admin() -> Response:
        return static_file(f"{page}/admin.html")

    @app.get("/static/{folder}/{name}")
    async def static(folder: str, name: str) -> Response:
        if folder not in ("kit", page) or name not in {file.name for file in (PAGES / folder).iterdir()}:
            raise HTTPException(404, "there is no such file")
        return static_file(f"{folder}/{name}")

    @app.get("/i/{secret}")
    async def accept_invitation(secret: str) -> Response:
        if invites.find(secret) is None:
            return static_file("kit/invalid.html", status=403)
        response = RedirectResponse("/", 303)
        year = 365 * 24 * 3600
        response.set_cookie(app.state.cookie, secret, max_age=year, httponly=True, samesite="strict")
        return response

    return app


def current_person(request: Request) -> Person:
    """Return the person who sent a request (a FastAPI dependency). Raises HTTPException without a valid invitation."""
    secret = request.cookies.get(request.app.state.cookie, "")
    person = request.app.state.invites.find(secret) if secret else None
    if person is None:
        raise HTTPException(401, "open this page with the link of your invitation; it may have been revoked")
    return person


def require_admin(request: Request) -> None:
    """Check the administrator's key (a FastAPI dependency). Raises HTTPException if it is wrong."""
    key = request.app.state.admin_key
    provided_key = request.headers.get("authorization", "").removeprefix("Bearer ")
    if key and not secrets.compare_digest(provided_key.encode(), key.encode()):
        raise HTTPException(401, "the key is wrong")


def static_file(name: str, status: int = 200) -> Response:
    """Return a file of `pages/`."""
    path = PAGES / name
    return FileResponse(path, status, {"cache-control": "no-cache"}, media_type=_TYPES[path.suffix])


def video_file(path: Path) -> Response:
    """Return a video, or the range of bytes that the browser requests; browsers may keep it for an hour."""
    return FileResponse(path, headers={"cache-control": "private, max-age=3600"}, media_type="video/mp4")


def json_response(content: Any) -> JSONResponse:
    """Return JSON that is not stored by the browser."""
    return JSONResponse(content, headers={"cache-control": "no-store"})


async def _http_error(_: Request, error: Any) -> Response:
    return _error(error.status_code, str(error.detail))


def _error(status: int, message: str) -> Response:
    return JSONResponse({"error": {"message": message}}, status, {"cache-control": "no-store"})
