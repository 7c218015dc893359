"""Ctrl-C and SIGTERM: a run saves its state before it ends, or ends at once if nothing is unsaved."""

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

from calibrax._terminal import SPELL_OUT


class Interrupted(Exception):
    """A signal has arrived and the run is saved; the message says how to resume.

    Attributes:
      exit_code: 130 after Ctrl-C. 0 after SIGTERM, by which a scheduler announces that it will take the machine.
    """

    def __init__(self, message: str, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


class Interrupts:
    """The signals that have arrived. `message` returns the text to end with: how to resume."""

    def __init__(self, message: Callable[[], str]):
        self._message, self._nothing_unsaved = message, False
        self._signum: int | None = None
        self._failure: Callable[[str], Exception] | None = None
        self._ending = threading.Lock()

    @property
    def arrived(self) -> bool:
        """True if the run should save its state and raise `interrupted()`."""
        return self._signum is not None or self._failure is not None

    def fail(self, failure: Callable[[str], Exception]) -> None:
        """Stop as after a signal, but with the exception that `failure` makes of the text on how to resume."""
        self._failure = self._failure or failure

    def interrupted(self) -> Exception:
        """The exception to raise once the state is saved."""
        if self._failure is not None:
            return self._failure(self._message())
        return Interrupted(self._message(), exit_code=0 if self._signum == signal.SIGTERM else 130)

    @contextlib.contextmanager
    def stop_at_once(self, when: bool = True) -> Iterator[None]:
        """A block that a signal ends at once: a long one, such as an evaluation, in which nothing is unsaved.

        Ctrl-C raises Interrupted. SIGTERM ends the process with exit code 0, even within compiled code, because the
        machine may be gone a few seconds later. If `when` is False, the block runs to its end.
        """
        self._nothing_unsaved = when
        try:
            if when and self.arrived:
                raise self.interrupted()
            yield
        except KeyboardInterrupt:
            raise self.interrupted() from None
        finally:
            self._nothing_unsaved = False

    def on_signal(self, signum: int, frame: object = None) -> None:
        """The handler of both signals. A second Ctrl-C stops at once whatever is in progress."""
        if self._nothing_unsaved and signum == signal.SIGTERM:
            self.end_process()
        if signum == signal.SIGINT and (self._nothing_unsaved or self.arrived):
            raise KeyboardInterrupt
        self._signum = signum

    def watch(self, signals: socket.socket) -> None:
        """Handle SIGTERM while the main thread runs compiled code, where Python calls no handler.

        The socket receives a byte per signal; the function returns when it is closed.
        """
        while received := signals.recv(64):
            if signal.SIGTERM in received and self._nothing_unsaved:
                self.end_process()

    def end_process(self) -> None:
        """End the process here. An exception would wait until the compiled code returns."""
        if not self._ending.acquire(blocking=False):  # the handler and `watch` may both see one signal
            time.sleep(1)
            return
        exit_code = 1
        try:
            line = f"\ncalibrax: {self._message()}\n"
            encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
            os.write(2, line.encode(encoding, SPELL_OUT))  # a signal handler must not use buffered output
            exit_code = 0
        finally:
            os._exit(exit_code)


@contextlib.contextmanager
def catch_interrupts(message: Callable[[], str]) -> Iterator[Interrupts]:
    """While the block runs, record Ctrl-C and SIGTERM instead of dying of them. Outside the main thread, do nothing."""
    interrupts = Interrupts(message)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signals, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    watcher = threading.Thread(target=interrupts.watch, args=(signals,), daemon=True)
    watcher.start()
    previous = {signum: signal.signal(signum, interrupts.on_signal) for signum in (signal.SIGINT, signal.SIGTERM)}
    descriptor = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    try:
        yield interrupts
    finally:
        signal.set_wakeup_fd(descriptor)
        for signum, handler in previous.items():
            signal.signal(signum, handler)
        wakeup.close()
        watcher.join()
        signals.close()
