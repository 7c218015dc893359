"""Ctrl-C and SIGTERM that lose nothing: a run saves and leaves, or leaves at once where all is on disk."""

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator


class Interrupted(Exception):
    """A signal arrived and the run is saved; the message says how to go on.

    Attributes:
      exit_code: 130 after Ctrl-C; 0 after SIGTERM, the notice that a scheduler gives before it takes the machine.
    """

    def __init__(self, message: str, exit_code: int = 130):
        super().__init__(message)
        self.exit_code = exit_code


class Interrupts:
    """What has arrived; made by `catch_interrupts`.

    Args:
      message: says, when something arrives and all is on disk, how to go on.
    """

    def __init__(self, message: Callable[[], str]):
        self._message, self._all_on_disk = message, False
        self._signum: int | None = None

    @property
    def arrived(self) -> bool:
        """Whether the loop should save and raise `interrupted()`."""
        return self._signum is not None

    def interrupted(self) -> Interrupted:
        """The exception to leave with, once the state is saved."""
        return Interrupted(self._message(), exit_code=0 if self._signum == signal.SIGTERM else 130)

    @contextlib.contextmanager
    def at_once(self, when: bool = True) -> Iterator[None]:
        """A block in which a signal need not wait, as nothing would be lost: long ones, such as an evaluation.

        Ctrl-C raises Interrupted. SIGTERM ends the process with exit code 0, even from within compiled code: whoever
        sends it takes the machine a few seconds later.

        Args:
          when: False for a block that is to be waited for.
        """
        self._all_on_disk = when
        try:
            if when and self.arrived:
                raise self.interrupted()
            yield
        except KeyboardInterrupt:
            raise self.interrupted() from None
        finally:
            self._all_on_disk = False

    def note(self, signum: int, frame: object = None) -> None:
        """The handler of both signals; a second Ctrl-C stops whatever is going on."""
        if self._all_on_disk and signum == signal.SIGTERM:
            self.leave()
        if signum == signal.SIGINT and (self._all_on_disk or self.arrived):
            raise KeyboardInterrupt
        self._signum = signum

    def watch(self, signals: socket.socket) -> None:
        """Act on a SIGTERM while the main thread is in compiled code, where no handler runs; until the socket ends."""
        while received := signals.recv(64):
            if signal.SIGTERM in received and self._all_on_disk:
                self.leave()

    def leave(self) -> None:
        """End the process here and now; not by an exception, which compiled code would keep waiting."""
        exit_code = 1
        try:
            os.write(2, f"\ncalibrax: {self._message()}\n".encode())  # a handler must not enter a buffer again
            exit_code = 0
        finally:
            os._exit(exit_code)


@contextlib.contextmanager
def catch_interrupts(message: Callable[[], str]) -> Iterator[Interrupts]:
    """Note Ctrl-C and SIGTERM while the block runs, instead of dying of them; not outside the main thread.

    Args:
      message: as for `Interrupts`.
    """
    interrupts = Interrupts(message)
    if threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signals, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    watcher = threading.Thread(target=interrupts.watch, args=(signals,), daemon=True)
    watcher.start()
    previous = {signum: signal.signal(signum, interrupts.note) for signum in (signal.SIGINT, signal.SIGTERM)}
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
