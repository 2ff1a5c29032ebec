"""A stranger's listener: takes connections on the ports given, says nothing, and keeps what it is sent.

Prints LISTENING, and at the end of its stdin a line "PORT HEX" for each connection.
"""

from __future__ import annotations

import selectors
import socket
import sys


def main(ports: list[int]) -> None:
    selector = selectors.DefaultSelector()
    received: list[tuple[int, bytearray]] = []
    for port in ports:
        server = socket.create_server(("", port), backlog=128)
        selector.register(server, selectors.EVENT_READ, port)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("LISTENING", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                for port, heard in received:
                    print(port, heard.hex())
                return
            assert isinstance(key.fileobj, socket.socket)
            if isinstance(key.data, int):
                connection, _ = key.fileobj.accept()
                received.append((key.data, bytearray()))
                selector.register(connection, selectors.EVENT_READ, received[-1][1])
                continue
            try:
                data = key.fileobj.recv(65536)
            except ConnectionError:
                data = b""
            key.data.extend(data)
            if not data:
                selector.unregister(key.fileobj)
                key.fileobj.close()


main([int(word) for word in sys.argv[1:]])
