"""A server process of the tests that can be frozen, thawed and killed."""

from __future__ import annotations

import signal
import subprocess


class Child:
    """`process` is None while there is none; subclasses start it."""

    process: subprocess.Popen[bytes] | None = None

    def freeze(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self.process = None
