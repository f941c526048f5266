"""Web pages and their servers: rating studies (`rate`) and annotation of clips (`annotate`).

| module | content |
|---|---|
| `app` | the FastAPI application that the pages share: security headers, errors, static files, sessions |
| `limits` | limits on request bodies and slow clients, checks of host and origin |
| `invites` | revocable invitation links |
| `run` | uvicorn with limits, on loopback unless a key is set |
| `rate/` | the rating page |
| `annotate/` | the annotation page |
| `pages/` | HTML, style sheets and ES modules, without a build step |

Requires the extra `serve`.
"""
