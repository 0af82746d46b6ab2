"""Somebody at a terminal: person.py NODE CONFIG. Types a name, a line and ^D."""
import os
import pty
import select
import subprocess
import sys

keyboard, terminal = pty.openpty()
node = subprocess.Popen([sys.argv[1], "run", sys.argv[2]], stdin=terminal, stdout=terminal, stderr=terminal)
screen = b""


def await_text(text):
    global screen
    while text not in screen:
        if not select.select([keyboard], [], [], 20)[0]:
            sys.exit(f"{text} is not shown, but {screen}")
        screen += os.read(keyboard, 4096)


await_text(b"Your name?")
os.write(keyboard, "zoë\n".encode())
await_text("Welcome, zoë\r\n".encode())
await_text(b"1 here\r\n")
os.write(keyboard, b"hello\n")
await_text("zoë: hello\r\n".encode())
os.write(keyboard, b"\x04")
sys.exit(node.wait(20))
