"""RFC 6455 without I/O: the layer of `websockets`, with the bounds that it leaves to others."""

import logging
import time
from typing import Final

from websockets.frames import CTRL_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from service.errors import Ending
from service.limits import Limits

FRAGMENTS: Final = 16_384  # of one message: empty ones cost no bytes, but time
_CONTROL_BURST: Final = 50
CONTROL_RATE: Final = 10.0  # a second
_ENDINGS: Final[dict[int, Ending]] = {
    CloseCode.PROTOCOL_ERROR: Ending.INVALID_FRAME,
    CloseCode.INVALID_DATA: Ending.INVALID_FRAME,
    CloseCode.POLICY_VIOLATION: Ending.POLICY,
    CloseCode.MESSAGE_TOO_BIG: Ending.TOO_LARGE,
}
_logger = logging.getLogger(__name__)
_logger.setLevel(logging.ERROR)  # below that, `websockets` logs what frames contain


class Wire(ServerProtocol):
    """RFC 6455, with the bounds on control frames and fragments that it does not have."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(max_size=limits.message_bytes, logger=_logger)
        self._continued = 0
        self._allowance = float(_CONTROL_BURST)
        self._allowed_at = 0.0

    @property
    def receiving(self) -> bool:
        """Whether a message has arrived in part."""
        return bool(self.reader.buffer) or self.current_size is not None

    @property
    def over(self) -> bool:
        """Whether the connection has ended, or could not begin."""
        return self.handshake_exc is not None or self.state > State.OPEN

    @property
    def ending(self) -> Ending:
        """Why it ended."""
        if self.close_rcvd is not None or self.close_sent is None:
            return Ending.GONE
        return _ENDINGS.get(self.close_sent.code, Ending.INTERNAL)

    def release(self) -> None:
        """Break the reference cycles of parser and exceptions: no garbage collection is needed."""
        self.parser.close()
        self.parser_exc = self.handshake_exc = None

    def recv_frame(self, frame: Frame) -> None:
        """Count what costs no bytes. `fail` here stops the parser, as a close frame does."""
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None  # RFC 6455 5.5.1: also inside a fragmented message
        elif frame.opcode in CTRL_OPCODES:
            if not self._afford_control():
                self.fail(CloseCode.POLICY_VIOLATION, Ending.POLICY.value)
                return
        else:
            self._continued = self._continued + 1 if frame.opcode is Opcode.CONT else 0
            if self._continued >= FRAGMENTS:
                self.fail(CloseCode.MESSAGE_TOO_BIG, Ending.TOO_LARGE.value)
                return
        super().recv_frame(frame)

    def _afford_control(self) -> bool:
        now = time.monotonic()
        earned = (now - self._allowed_at) * CONTROL_RATE
        self._allowance = min(_CONTROL_BURST, self._allowance + earned) - 1
        self._allowed_at = now
        return self._allowance >= 0
