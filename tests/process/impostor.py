"""Another user, who answers where a server of ours should: a program for test_impostor.py, started as root.

    python impostor.py UID ADDRESS PORT BODY

Becomes that user, listens, answers 200 and the body to whatever it is asked, and writes to its output what each connection brought: a
line of JSON, "" where that was nothing.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading

HEAD = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n"


def answer(connection: socket.socket, body: str) -> None:
    with connection:
        connection.settimeout(20)
        data = b""
        while b"\r\n\r\n" not in data and (piece := connection.recv(2**16)):
            data += piece
        # One call: another thread must not write between the line and its end.
        os.write(1, json.dumps(data.decode("latin-1")).encode() + b"\n")
        if data:
            connection.sendall((HEAD.format(len(body)) + body).encode())


def serve(listener: socket.socket, body: str) -> None:
    while True:
        threading.Thread(target=answer, args=(listener.accept()[0], body), daemon=True).start()


if __name__ == "__main__":
    user, address, port, body = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    assert os.getuid() == user
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address, port))
        listener.listen(50)
        print("listens", flush=True)
        serve(listener, body)
