"""A hostile client on libnbd: it has a host's real key and attachment, and goes on when it should not.

Before the fence it is one more session of the host's own attachment, with one write after the other on one connection
and many in flight on another. Once anything is refused it tries all it can think of: the old connections, new sessions,
other incarnations, other epochs, no claim at all. Every sector it writes is stamped (lab/src/disks/stamp.rs).

One argument: the plan as JSON. One JSON line on stdout for every write and every attach. "end" on stdin ends it.
"""
import errno
import json
import select
import sys
import time

import nbd

PLAN = json.loads(sys.argv[1])
MAGIC = b"muskox-rogue-v1\0"
KINDS = {"write": 1, "queued": 2, "attach": 3, "reattach": 4}
BLOCK = 4096
# A target answers in milliseconds, a fence within 1.5 s; what takes longer is lost.
PATIENCE_S = 5
# Between two attempts at a new session: often enough that some fall into every phase of a raise.
PAUSE_S = 0.15
# It sends for so long, waits for every answer, and pauses: nearly always something is in flight when a fence falls, and
# a fence that only waits for silence finds some, and is then written over.
VOLLEY_S, BREATH_S = 0.4, 0.02
# Writes are sent so far apart, so that their answers are too.
STEP_S = 0.015
# A fenced connection is tried again so often; ten thousand refusals a second prove no more.
AGAIN_S = 0.05
# Refusals that the gate makes: the epoch is over, or the attachment may not write.
REFUSALS = ("ESHUTDOWN", "EPERM")


def now_us():
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000


class State:
    seq = 0
    portal = 0
    fenced = False


def tell(at_us, what, epoch, incarnation, seq, outcome, text):
    line = {"at_us": at_us, "done_us": now_us(), "fault": PLAN["run"], "what": what, "epoch": epoch}
    line.update(incarnation=incarnation, seq=seq, outcome=outcome, text=text[:300])
    print(json.dumps(line), flush=True)


def judge(error):
    """What an error of a command means."""
    return "refused" if error.errno in REFUSALS else "lost"


def judge_attach(error):
    """libnbd has no error number for a refused option, but passes on what the server said."""
    text = error.string or ""
    said = any(word in text for word in ("server replied", "policy", "refused by server", "ERR_", "shutting down"))
    return "refused" if said or error.errno in REFUSALS else "lost"


class Session:
    """A connection under one claim, and its writes in flight."""

    def __init__(self, what, epoch, incarnation, stock=False):
        self.what, self.epoch, self.incarnation = what, epoch, incarnation
        self.flight = {}
        claim = f"{PLAN['volume']};epoch={epoch};incarnation={incarnation};mode=rw"
        self.handle = nbd.NBD()
        self.handle.set_export_name(PLAN["volume"] if stock else claim)
        if PLAN["certificates"]:
            self.handle.set_tls(nbd.TLS_REQUIRE)
            self.handle.set_tls_certificates(PLAN["certificates"])
            # It does not care whom it harms.
            self.handle.set_tls_verify_peer(False)
        at_us = now_us()
        try:
            self.connect()
        except nbd.Error as error:
            tell(at_us, what, epoch, incarnation, None, judge_attach(error), error.string or str(error))
            raise

    def connect(self):
        portal = PLAN["portals"][State.portal % len(PLAN["portals"])]
        State.portal += 1
        host, port = portal.rsplit(":", 1)
        self.handle.aio_connect_tcp(host, port)
        until = time.monotonic() + PATIENCE_S
        while self.handle.aio_is_connecting():
            if time.monotonic() > until:
                raise nbd.Error("connecting: no answer", errno.ETIMEDOUT)
            self.handle.poll(20)
        if not self.handle.aio_is_ready():
            # The failed step's own words come from asking once more.
            self.handle.block_size("x")

    def write(self):
        """Sends one stamped block to where no other of this rogue is in flight."""
        State.seq += 1
        seq = State.seq
        numbers = b"".join(number.to_bytes(8, "big") for number in (PLAN["run"], self.epoch, seq))
        sector = (MAGIC + numbers + bytes([KINDS[self.what]])).ljust(512, b"\0")
        offset = PLAN["offset"] + seq % PLAN["blocks"] * BLOCK
        data = nbd.Buffer.from_bytearray(bytearray(sector * (BLOCK // 512)))
        at_us = now_us()
        try:
            cookie = self.handle.aio_pwrite(data, offset)
            self.flight[cookie] = (at_us, seq, data)
        except nbd.Error as error:
            self.answer(at_us, seq, error)

    def answer(self, at_us, seq, error):
        outcome = judge(error) if error else "applied"
        text = (error.string or str(error)) if error else ""
        tell(at_us, self.what, self.epoch, self.incarnation, seq, outcome, text)
        State.fenced = State.fenced or outcome == "refused"

    def collect(self):
        """Takes what was answered."""
        for cookie, (at_us, seq, _) in list(self.flight.items()):
            error = None
            try:
                if not self.handle.aio_command_completed(cookie):
                    if now_us() - at_us < PATIENCE_S * 1000000:
                        continue
                    error = nbd.Error("no answer", errno.ETIMEDOUT)
            except nbd.Error as refused:
                error = refused
            del self.flight[cookie]
            self.answer(at_us, seq, error)

    def turn(self):
        """Lets the connection go on; never blocks."""
        try:
            if self.alive():
                self.handle.poll(0)
        except nbd.Error:
            pass
        self.collect()

    def alive(self):
        return not (self.handle.aio_is_dead() or self.handle.aio_is_closed())

    def finish(self):
        """Waits for what is in flight."""
        while self.flight:
            wait([self], 20)
            self.turn()


def wait(sessions, timeout_ms):
    """Waits until a connection has something to say, or "end" comes; whether it came."""
    poll = select.poll()
    poll.register(sys.stdin, select.POLLIN)
    for session in sessions:
        if session.alive():
            direction = session.handle.aio_get_direction()
            want = select.POLLIN if direction & nbd.AIO_DIRECTION_READ else 0
            want |= select.POLLOUT if direction & nbd.AIO_DIRECTION_WRITE else 0
            poll.register(session.handle.aio_get_fd(), want)
    # Also the end of the file: whoever started this is gone.
    return any(fd == sys.stdin.fileno() for fd, _ in poll.poll(timeout_ms))


def attempt(what, epoch, incarnation, stock=False):
    """A new session, and if it is let in, one write."""
    try:
        session = Session(what, epoch, incarnation, stock)
    except nbd.Error:
        State.fenced = True
        return
    session.write()
    session.finish()
    session.handle.shutdown() if session.alive() else None


def attempts():
    """What is tried in turn. Before the fence only what a host may do: another incarnation would end the true one."""
    epoch, incarnation = PLAN["epoch"], PLAN["incarnation"]
    while True:
        yield ("attach", epoch, incarnation)
        if State.fenced:
            yield ("reattach", epoch, incarnation + 1)
            if incarnation > 1:
                yield ("reattach", epoch, incarnation - 1)
            yield ("reattach", epoch + 1, 1)
            yield ("reattach", epoch, incarnation, True)


def run():
    single = Session("write", PLAN["epoch"], PLAN["incarnation"])
    queue = Session("queued", PLAN["epoch"], PLAN["incarnation"])
    tries, depths, rhythm, next_try = attempts(), ((single, 1), (queue, PLAN["depth"])), Rhythm(), 0
    while not wait([single, queue], 10):
        for session, _ in depths:
            session.turn()
        if rhythm.beat(any(session.flight for session, _ in depths)):
            for session, depth in depths:
                if session.alive() and len(session.flight) < depth:
                    session.write()
        # An attempt writes too, so it belongs to the volley; once fenced there is none.
        if time.monotonic() >= next_try and (State.fenced or rhythm.sends()):
            attempt(*next(tries))
            next_try = time.monotonic() + PAUSE_S
    for session, _ in depths:
        session.finish()


class Rhythm:
    """When to send."""

    def __init__(self):
        self.ends, self.next = time.monotonic() + VOLLEY_S, 0

    def sends(self):
        return State.fenced or time.monotonic() < self.ends

    def beat(self, in_flight):
        """Whether to send now."""
        now = time.monotonic()
        if now >= self.ends and not in_flight:
            self.ends, self.next = now + BREATH_S + VOLLEY_S, now + BREATH_S
        if now < self.next or not self.sends():
            return False
        self.next = now + (AGAIN_S if State.fenced else STEP_S)
        return True


def erase():
    """Takes the stamps away by the right of the new owner, or a later resync would carry them to another disk."""
    session = Session("attach", PLAN["epoch"], PLAN["incarnation"])
    handle = session.handle
    for block in range(PLAN["blocks"]):
        handle.pwrite(bytearray(BLOCK), PLAN["offset"] + block * BLOCK)
    handle.flush()
    handle.shutdown()


try:
    erase() if PLAN["erase"] else run()
except nbd.Error as error:
    sys.exit(f"rogue: {error}")
