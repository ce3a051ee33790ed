//! The rules of docs/rfd/0003-gate.md as scripts. Goal of each: the rule in its name, every refusal in its exact words.
//! Method: events and the commands they must bring, in order; nothing more, nothing less.

use super::script::play;

#[test]
fn rule_1_deny() {
    play("never granted", "", true, "
        attach 1 A e0 i1 rw => refused 1: volume web1 at epoch 0 is not granted to A: grant it to that host first
        attach 2 A e1 i1 ro => refused 2: volume web1 is at epoch 0, you hold epoch 1, which is neither granted nor reserved for A: reserve or raise first
        stock 3 A ro => refused 3: volume web1 at epoch 0 is not granted to A: grant it to that host first
    ");
    play("granted to others", "e7 A:rw B:ro", true, "
        attach 1 C e7 i1 ro => refused 1: volume web1 at epoch 7 is not granted to C: grant it to that host first
        attach 2 A e5 i1 rw => refused 2: volume web1 is at epoch 7, you hold epoch 5: a later start or takeover has replaced this one for good
        attach 3 A e8 i1 rw => refused 3: volume web1 is at epoch 7, you hold epoch 8, which is neither granted nor reserved for A: reserve or raise first
        attach 4 B e7 i1 rw => refused 4: volume web1 at epoch 7 is granted to B read-only: attach it read-only, or grant it rw
        attach 5 A e7 i0 rw => refused 5: volume web1 was asked for by incarnation 0: incarnations start at 1
        attach 6 A e7 i18446744073709551615 rw => store e7 A:rw:18446744073709551615 B:ro:0
        stored => admitted 6 e7 i18446744073709551615
        detach 6 =>
        stock 7 A rw => refused 7: volume web1 has no incarnation left for this host in epoch 7: raise it to a new epoch
    ");
    play(
        "read-only",
        "e7 A:rw B:ro",
        true,
        "
        attach 1 A e7 i1 ro => store e7 A:rw:1 B:ro:0
        stored => admitted 1 e7 i1
        write 1 => this attachment may not write
        read 1 => passed
        attach 1 A e7 i1 ro => refused 1: volume web1 was asked for twice by one session
        stock 2 B ro => store e7 A:rw:1 B:ro:1
        stored => admitted 2 e7 i1
        write 2 => this attachment may not write
    ",
    );
}

#[test]
fn rule_2_raise() {
    play(
        "close, store, drain, ack",
        "e6 A:rw:1",
        true,
        "
        attach 1 A e6 i1 rw => admitted 1 e6 i1
        write 1 => passed
        read 1 => passed
        raise 1 e7 B:rw => revoke 1; store e7 B:rw:0; wake 1500
        state => raising
        read 1 => epoch 6 is over, the volume is at epoch 7
        write 1 => epoch 6 is over, the volume is at epoch 7
        attach 2 B e7 i1 rw =>
        stored => store e7 B:rw:1
        stored =>
        end 1 =>
        end 1 => ack 1; admitted 2 e7 i1
        state => serving
        write 2 => passed
        write 1 => epoch 6 is over, the volume is at epoch 7
    ",
    );
    play(
        "again, lower, others",
        "e7 B:rw",
        true,
        "
        raise 1 e7 B:rw => ack 1
        raise 2 e6 B:rw => decline 2: the volume is at epoch 7 already, epoch 6 is over: read the store again
        raise 3 e7 A:rw => decline 3: epoch 7 was granted to other owners: take a higher epoch
        raise-shared 4 e7 B:rw => decline 4: epoch 7 was granted to other owners: take a higher epoch
        raise 5 e8 A:rw B:rw => decline 5: 2 hosts would write to a volume that is not marked shared
        raise 6 e8 A:rw A:ro => decline 6: 2 owners: a grant names at most 8 hosts, each once
        raise-shared 7 e8 B:rw A:rw => store e8 A:rw:0 B:rw:0; wake 1500
        raise-shared 8 e8 A:rw B:rw =>
        stored => ack 7; ack 8
    ",
    );
    play(
        "a higher one overtakes",
        "e6 A:rw",
        true,
        "
        raise 1 e7 B:rw => store e7 B:rw:0; wake 1500
        raise 2 e9 => decline 1: epoch 7 was overtaken by epoch 9 while it was being raised
        stored => store e9
        stored => ack 2
    ",
    );
    play("the store fails", "e6 A:rw:1", true, "
        attach 1 A e6 i1 rw => admitted 1 e6 i1
        raise 1 e7 B:rw => revoke 1; store e7 B:rw:0; wake 1500
        attach 2 B e7 i1 rw =>
        store-failed => store e7 B:rw:1; decline 1: the grant of epoch 7 could not be written; see to the array's disks, then ask again; refused 2: volume web1 is blocked(store): the grant could not be written; see to the array's disks, then raise again
        store-failed =>
        state => blocked(store)
        attach 3 B e7 i2 rw => refused 3: volume web1 is blocked(store): the grant could not be written; see to the array's disks, then raise again
        write 1 => epoch 6 is over, the volume is at epoch 7
        pass 2000 =>
        tick =>
        raise 4 e7 B:rw => store e7 B:rw:1; wake 3500
        stored => ack 4
    ");
}

#[test]
fn rule_3_drain_is_bounded() {
    play(
        "a disk hangs",
        "e6 A:rw:1",
        true,
        "
        attach 1 A e6 i1 rw => admitted 1 e6 i1
        write 1 => passed
        pass 5000 =>
        raise 1 e7 => revoke 1; store e7; wake 6500
        stored =>
        pass 1499 =>
        tick =>
        pass 1 =>
        tick => fail-laggards 5000
        tick =>
        laggards-failed => wake 7000
        pass 500 =>
        tick => fail-laggards 5500
        last-member => wake 7500
        state => blocked(fence)
        attach 2 A e7 i1 rw => refused 2: volume web1 at epoch 7 is not granted to A: grant it to that host first
        end 1 => ack 1
        state => serving
        tick =>
    ",
    );
    play(
        "a box that records nothing",
        "e6 A:rw",
        true,
        "
        raise 1 e7 => store e7; wake 1500
        pass 1500 =>
        tick => fail-laggards 0
        unrecorded => wake 2000
        state => blocked(store)
        pass 500 =>
        tick => fail-laggards 500
        laggards-failed => wake 2500
        state => raising
        stored => ack 1
    ",
    );
    play(
        "a hanging disk holds up the store",
        "e6 A:rw",
        true,
        "
        raise 1 e7 => store e7; wake 1500
        pass 1500 =>
        tick => fail-laggards 0
        stored => ack 1
        laggards-failed =>
    ",
    );
}

#[test]
fn rule_4_incarnations_only_grow() {
    play("higher waits for the drain, lower is over", "e7 A:rw:3", true, "
        attach 1 A e7 i2 rw => refused 1: volume web1 has admitted incarnation 3 of this host, you hold incarnation 2: a later life of this initiator has replaced it for good
        attach 2 A e7 i3 rw => admitted 2 e7 i3
        attach 3 A e7 i3 rw => admitted 3 e7 i3
        write 2 => passed
        attach 4 A e7 i4 rw => revoke 2 3; store e7 A:rw:4
        write 3 => the device is closed
        stored =>
        attach 5 A e7 i6 rw => store e7 A:rw:6; refused 4: volume web1 has admitted incarnation 6 of this host, you hold incarnation 4: a later life of this initiator has replaced it for good
        end 2 =>
        stored => admitted 5 e7 i6
    ");
    play("the store comes before the answer", "e7 A:rw", true, "
        attach 1 A e7 i1 rw => store e7 A:rw:1
        attach 2 A e7 i1 rw =>
        attach 3 A e7 i1 rw =>
        detach 3 =>
        store-failed => refused 1: volume web1 could not store incarnation 1 with the grant: its array takes no writes; see to its disks, then try again; refused 2: volume web1 could not store incarnation 1 with the grant: its array takes no writes; see to its disks, then try again
        state => serving
        attach 4 A e7 i1 rw => store e7 A:rw:1
        stored => admitted 4 e7 i1
    ");
}

/// DA4, B1: an attach that waits for the operations of an older life fails no member, however long a flush lasts; a raise
/// that comes meanwhile does.
#[test]
fn rules_4_and_5_a_drain_alone_fails_nobody() {
    play(
        "a slow flush under a life that is over",
        "e7 A:rw:1",
        true,
        "
        attach 1 A e7 i1 rw => admitted 1 e7 i1
        write 1 => passed
        attach 2 A e7 i2 rw => revoke 1; store e7 A:rw:2
        stored =>
        pass 3000 =>
        tick =>
        end 1 => admitted 2 e7 i2
    ",
    );
    play(
        "under a session that was closed",
        "e7 A:rw:1",
        true,
        "
        attach 1 A e7 i1 rw => admitted 1 e7 i1
        write 1 => passed
        detach 1 =>
        attach 2 A e7 i1 rw =>
        pass 3000 =>
        tick =>
        raise 1 e8 B:rw => store e8 B:rw:0; wake 4500; refused 2: volume web1 is at epoch 8, you hold epoch 7: a later start or takeover has replaced this one for good
        stored =>
        pass 1500 =>
        tick => fail-laggards 3000
        laggards-failed => wake 5000
        end 1 => ack 1
    ",
    );
}

#[test]
fn rule_5_a_dead_sessions_drain() {
    play(
        "a retry does not overtake",
        "e7 A:rw:1",
        true,
        "
        attach 1 A e7 i1 rw => admitted 1 e7 i1
        attach 2 A e7 i1 rw => admitted 2 e7 i1
        write 1 => passed
        write 2 => passed
        detach 1 =>
        attach 3 A e7 i1 rw =>
        end 2 =>
        end 1 => admitted 3 e7 i1
    ",
    );
    play(
        "a dying session is no company",
        "e7 A:rw:4",
        true,
        "
        attach 1 A e7 i4 rw => admitted 1 e7 i4
        write 1 => passed
        detach 1 =>
        stock 2 A rw => store e7 A:rw:5
        stored =>
        end 1 => admitted 2 e7 i5
    ",
    );
}

/// DA1: what a stock client's older connection still delivers is refused once a newer one is admitted, whether the
/// older one is known to be closed or not.
#[test]
fn rule_9_stock_clients() {
    play(
        "one that is silent is replaced, and drained first",
        "e7 A:rw:4",
        true,
        "
        stock 1 A rw => store e7 A:rw:5
        stored => admitted 1 e7 i5
        write 1 => passed
        pass 2000 =>
        stock 2 A rw => revoke 1; store e7 A:rw:6
        write 1 => the device is closed
        stored =>
        end 1 => admitted 2 e7 i6
        write 1 => the device is closed
        write 2 => passed
    ",
    );
    play(
        "one that is in use is not",
        "e7 A:rw:4",
        true,
        "
        stock 1 A rw => store e7 A:rw:5
        stock 2 A rw => refused 2: volume web1 is attached for writing by a client of this host already, heard 0 ms ago: end that one first; one that is silent for 2.0 s is replaced
        stored => admitted 1 e7 i5
        pass 1500 =>
        hear 1 =>
        pass 1999 =>
        stock 3 A rw => refused 3: volume web1 is attached for writing by a client of this host already, heard 1.9 s ago: end that one first; one that is silent for 2.0 s is replaced
        write 1 => passed
        detach 1 =>
        stock 4 A rw => store e7 A:rw:6
        end 1 =>
        stored => admitted 4 e7 i6
    ",
    );
    play("an initiator of the same host counts as well", "e7 A:rw:4", true, "
        attach 1 A e7 i5 rw => store e7 A:rw:5
        stored => admitted 1 e7 i5
        stock 2 A rw => refused 2: volume web1 is attached for writing by a client of this host already, heard 0 ms ago: end that one first; one that is silent for 2.0 s is replaced
        raise 1 e8 A:rw => revoke 1; store e8 A:rw:0; wake 1500
        stock 3 A rw =>
        stored => store e8 A:rw:1; ack 1
        stored => admitted 3 e8 i1
    ");
    play(
        "who only reads touches nothing, and is not touched",
        "e7 A:rw:4 B:ro:0",
        true,
        "
        stock 1 B ro => store e7 A:rw:4 B:ro:1
        stored => admitted 1 e7 i1
        stock 2 B ro => admitted 2 e7 i1
        attach 3 A e7 i4 ro => admitted 3 e7 i4
        attach 4 A e7 i4 rw => admitted 4 e7 i4
        stock 5 A ro => admitted 5 e7 i4
        write 4 => passed
        read 1 => passed
        read 2 => passed
        detach 4 =>
        stock 6 A rw => revoke 3 5; store e7 A:rw:5 B:ro:1
        read 1 => passed
        end 4 =>
        stored => admitted 6 e7 i5
        stock 7 C rw => refused 7: volume web1 at epoch 7 is not granted to C: grant it to that host first
    ",
    );
}

#[test]
fn rule_6_restart_and_floor() {
    let blocked = "blocked(floor): a member that may hold a higher grant is missing and the store is out of reach; \
                   bring back either, or override";
    play(
        "a member is missing",
        "e7 A:rw:1",
        false,
        &format!(
            "
        state => blocked(floor)
        attach 1 A e7 i1 rw => refused 1: volume web1 is {blocked}
        stock 2 A ro => refused 2: volume web1 is {blocked}
        raise 1 e8 A:rw => decline 1: the volume is {blocked}
        reserve 2 e9 B => decline 2: the volume is {blocked}
        found-nothing =>
        state => blocked(floor)
        floor 7 => store e7 A:rw:1
        attach 3 A e7 i1 rw =>
        raise 3 e7 A:rw => wake 1500
        stored => ack 3; admitted 3 e7 i1
    "
        ),
    );
    play("the floor is above the record", "e7 A:rw:1", false, "
        floor 8 =>
        attach 1 A e7 i1 rw => refused 1: volume web1 is at epoch 8, you hold epoch 7: a later start or takeover has replaced this one for good
        attach 2 A e8 i1 rw => refused 2: volume web1 is at epoch 8, which nobody was granted yet: wait for the raise that grants it
        stock 3 A ro => refused 3: volume web1 is at epoch 8, which nobody was granted yet: wait for the raise that grants it
        raise 1 e7 A:rw => decline 1: the volume is at epoch 8 already, epoch 7 is over: read the store again
        raise 2 e8 B:rw => store e8 B:rw:0; wake 1500
        stored => ack 2
    ");
    play(
        "a floor fences a running volume",
        "e7 A:rw:1",
        true,
        "
        attach 1 A e7 i1 rw => admitted 1 e7 i1
        floor 7 =>
        write 1 => passed
        floor 8 => revoke 1
        write 1 => epoch 7 is over, the volume is at epoch 8
        floor 3 =>
        raise 1 e8 => store e8; wake 1500
        floor 9 => decline 1: the volume is at epoch 9 already, epoch 8 is over: read the store again
    ",
    );
}

#[test]
fn rule_6_what_else_opens_or_closes() {
    play("the member comes back with a higher grant", "e7 A:rw:1", false, "
        found e9 B:rw:2 => store e9 B:rw:2
        stored =>
        attach 1 A e7 i1 rw => refused 1: volume web1 is at epoch 9, you hold epoch 7: a later start or takeover has replaced this one for good
        attach 2 B e9 i2 rw => admitted 2 e9 i2
        write 2 => passed
        found e9 B:rw:1 =>
        found e9 B:rw:4 +11C => revoke 2; store e9 B:rw:4 +11C:0
        write 2 => the device is closed
        stored =>
        attach 4 B e9 i3 rw => refused 4: volume web1 has admitted incarnation 4 of this host, you hold incarnation 3: a later life of this initiator has replaced it for good
        reserve 1 e10 A => decline 1: epoch 11 is promised already: take a higher epoch
        end 2 =>
        attach 5 B e9 i4 rw => admitted 5 e9 i4
        found e12 C:rw => revoke 5
        attach 3 C e12 i1 rw => refused 3: volume web1 is at epoch 12, which nobody was granted yet: wait for the raise that grants it
    ");
    play(
        "an operator's word",
        "e7 A:rw:1",
        false,
        "
        override the other disk burnt, ticket 12 => store e7 A:rw:1
        stored =>
        attach 1 A e7 i1 rw => admitted 1 e7 i1
    ",
    );
    play(
        "rot is a missing member",
        "e7 A:rw:1 | rot",
        true,
        "
        state => blocked(floor)
        found rot =>
        state => blocked(floor)
        floor 7 => store e7 A:rw:1
        state => serving
    ",
    );
    play(
        "the maximum wins",
        "e7 A:rw:1 | e9 B:rw:1 | e8 A:rw:5",
        true,
        "
        attach 1 B e9 i1 rw => admitted 1 e9 i1
    ",
    );
}

#[test]
fn standby() {
    play("reads, then writes by the raise that grants exactly it", "e7 A:rw:1", true, "
        reserve 1 e7 B => decline 1: the volume is at epoch 7 already, epoch 7 is over: read the store again
        reserve 2 e9 B => store e7 A:rw:1 +9B:0
        attach 1 B e9 i1 rw =>
        stored => store e7 A:rw:1 +9B:1; ack 2
        stored => admitted 1 e9 i1
        write 1 => this attachment may not write
        read 1 => passed
        reserve 3 e9 B => ack 3
        reserve 4 e9 C => decline 4: epoch 9 is promised already: take a higher epoch
        reserve 5 e8 C => decline 5: epoch 9 is promised already: take a higher epoch
        attach 2 C e9 i1 rw => refused 2: volume web1 is at epoch 7, you hold epoch 9, which is neither granted nor reserved for C: reserve or raise first
        attach 3 A e7 i1 rw => admitted 3 e7 i1
        write 3 => passed
        raise 6 e8 => revoke 3; store e8 +9B:1; wake 1500
        read 1 => passed
        stored =>
        end 3 => ack 6
        write 1 => this attachment may not write
        raise 7 e9 B:rw => store e9 B:rw:1; wake 1500
        write 1 => this attachment may not write
        stored => ack 7
        write 1 => passed
    ");
    play(
        "a promise replaced, a promise not kept",
        "e7 A:rw",
        true,
        "
        reserve 1 e9 B => store e7 A:rw:0 +9B:0
        stored => ack 1
        attach 1 B e9 i1 rw => store e7 A:rw:0 +9B:1
        stored => admitted 1 e9 i1
        reserve 2 e10 C => revoke 1; store e7 A:rw:0 +10C:0
        read 1 => the device is closed
        reserve 3 e11 B => decline 2: epoch 10 was overtaken by epoch 11 while it was being raised
        store-failed => store e7 A:rw:0 +11B:0
        store-failed => decline 3: the grant of epoch 11 could not be written; see to the array's disks, then ask again
        reserve 4 e11 B => store e7 A:rw:0 +11B:0
        stored => ack 4
        attach 2 B e11 i1 rw => store e7 A:rw:0 +11B:1
        stored => admitted 2 e11 i1
        raise 5 e11 C:rw => revoke 2; store e11 C:rw:0; wake 1500
        stored => ack 5
    ",
    );
    play(
        "a promise granted read-only",
        "e7 A:rw +9B",
        true,
        "
        attach 1 B e9 i1 rw => store e7 A:rw:0 +9B:1
        stored => admitted 1 e9 i1
        attach 2 B e9 i1 ro => admitted 2 e9 i1
        raise 1 e9 B:ro => revoke 1; store e9 B:ro:1; wake 1500
        stored => ack 1
        read 2 => passed
        write 2 => this attachment may not write
    ",
    );
}

/// Every list has an end (STYLE 6).
#[test]
fn limits() {
    let many = |line: &str, count: usize, last: &str| {
        let lines: String = (1..=count).map(|n| format!("{}\n", line.replace('#', &n.to_string()))).collect();
        format!("{lines}{}", last.replace('#', &(count + 1).to_string()))
    };
    let attaches = many(
        "attach # A e7 i1 rw =>",
        63,
        "attach # A e7 i1 rw =>
        attach 65 A e7 i1 rw => refused 65: volume web1 has 64 attaches waiting already: try again later",
    );
    play(
        "waiting",
        "e6 C:rw:1",
        true,
        &format!(
            "
        raise 1 e7 A:rw => store e7 A:rw:0; wake 1500
        {attaches}
    "
        ),
    );
    let asks = many("raise # e7 A:rw =>", 63, "raise # e7 A:rw => decline 64: 64 callers wait for this already");
    play(
        "asking",
        "e6 A:rw",
        true,
        &format!(
            "
        raise 100 e7 A:rw => store e7 A:rw:0; wake 1500
        {asks}
    "
        ),
    );
    let sessions = many(
        "attach # A e6 i1 rw => admitted # e6 i1",
        8,
        "attach # A e6 i1 rw => refused #: volume web1 has 8 sessions already: close some first",
    );
    play("sessions", "e6 A:rw:1", true, &sessions);
    let promises = many("reserve # e8 A =>", 63, "reserve # e8 A => decline 64: 64 callers wait for this already");
    play(
        "promises",
        "e6 A:rw",
        true,
        &format!(
            "
        reserve 100 e8 A => store e6 A:rw:0 +8A:0
        {promises}
    "
        ),
    );
}
