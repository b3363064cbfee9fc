"""A TCP relay that holds every byte back for half of a round-trip time, each way: a distant host on this machine.

Bytes are held, not throttled: what was sent together arrives together, as on a real line of that length.
"""

import asyncio
import threading


class Relay:
    """Listens on 127.0.0.1 (`port`) and relays to `target`, `round_trip` seconds away."""

    def __init__(self, target, round_trip):
        self.target, self.delay = target, round_trip / 2
        self.loop = asyncio.new_event_loop()
        self.server = self.loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", 0))
        self.port = self.server.sockets[0].getsockname()[1]
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    async def _accept(self, reader, writer):
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))

    async def _pump(self, reader, writer):
        """Reads at once and writes when the time has come, so that the line carries as much as there is to send."""
        line = asyncio.Queue()

        async def receive():
            while data := await reader.read(65536):
                line.put_nowait((self.loop.time() + self.delay, data))
            line.put_nowait((self.loop.time() + self.delay, b""))

        async def deliver():
            while True:
                due, data = await line.get()
                await asyncio.sleep(max(0, due - self.loop.time()))
                if not data:
                    writer.close()
                    return
                writer.write(data)
                await writer.drain()

        try:
            await asyncio.gather(receive(), deliver())
        except (ConnectionError, OSError):
            writer.close()
