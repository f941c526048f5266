"""Connections that send no request, or only a part of its headers, are closed."""

import asyncio

import pytest

uvicorn = pytest.importorskip("uvicorn")


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\nhost: localhost\r\n", b"whole and part"])
def test_a_connection_without_a_whole_request_is_closed(start):
    from cogvideox.serving.slow_headers import protocol

    request = b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n"

    async def app(scope, receive, send):
        await asyncio.sleep(0.4)  # longer than the limit, which ends with the headers
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def run():
        config = uvicorn.Config(app, http=protocol(0.2), lifespan="off", log_level="error")
        config.load()
        state = uvicorn.server.ServerState()
        server = await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config=config, server_state=state, app_state={}), "127.0.0.1", 0
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            writer.close()
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            if start == b"whole and part":
                writer.write(request)
                await reader.readuntil(b"\r\n\r\n")
                writer.write(request[:-2])
            else:
                writer.write(start)
            assert await asyncio.wait_for(reader.read(), 4) == b""  # before uvicorn's 5 s between requests
            writer.close()

    asyncio.run(asyncio.wait_for(run(), 30))
