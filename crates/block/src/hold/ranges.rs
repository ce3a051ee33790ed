//! Ranges that are being written. Overlapping writes go one after the other, so that the un-flushed log and the target
//! agree on which is newer; and a read does not see the past of a write that a lost session left in doubt.

use crate::wait::WaitList;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use units::{ByteLen, ByteOffset};

/// The writes on one volume, in order of arrival: those under way, and those that wait for an older one.
#[derive(Default)]
pub struct Ranges {
    writing: RefCell<Vec<Rc<Writing>>>,
    ended: WaitList,
}

/// One write. In doubt from the loss of a session until it is answered on a later one.
struct Writing {
    start: u64,
    end: u64,
    in_doubt: Cell<bool>,
}

/// The right to write a range; given back on drop.
pub struct WriteTurn {
    ranges: Rc<Ranges>,
    writing: Rc<Writing>,
}

impl Ranges {
    /// Waits until no older write touches the range. The order is that of the first polls.
    pub async fn turn(self: Rc<Self>, at: ByteOffset, len: ByteLen) -> WriteTurn {
        let (start, end) = (at.0, at.0.saturating_add(len.0));
        let writing = Rc::new(Writing { start, end, in_doubt: Cell::new(false) });
        self.writing.borrow_mut().push(Rc::clone(&writing));
        // From here on: a write that is given up while it waits is in nobody's way.
        let turn = WriteTurn { ranges: self, writing };
        while turn.is_behind_another() {
            turn.ranges.ended.wait().await;
        }
        turn
    }

    /// Whether a write in doubt touches the range.
    pub fn in_doubt(&self, at: ByteOffset, len: ByteLen) -> bool {
        self.any(at.0, at.0.saturating_add(len.0), |writing| writing.in_doubt.get())
    }

    /// Waits until no write in doubt touches the range.
    pub async fn settled(&self, at: ByteOffset, len: ByteLen) {
        while self.in_doubt(at, len) {
            self.ended.wait().await;
        }
    }

    fn any(&self, start: u64, end: u64, which: impl Fn(&Writing) -> bool) -> bool {
        self.writing.borrow().iter().any(|other| other.touches(start, end) && which(other))
    }
}

impl Writing {
    fn touches(&self, start: u64, end: u64) -> bool {
        self.start < end && start < self.end
    }
}

impl WriteTurn {
    fn is_behind_another(&self) -> bool {
        let all = self.ranges.writing.borrow();
        let mut older = all.iter().take_while(|other| !Rc::ptr_eq(other, &self.writing));
        older.any(|other| other.touches(self.writing.start, self.writing.end))
    }

    /// The session was lost under this write: it may or may not have been done.
    pub fn doubt(&self) {
        self.writing.in_doubt.set(true);
    }
}

impl Drop for WriteTurn {
    fn drop(&mut self) {
        self.ranges.writing.borrow_mut().retain(|other| !Rc::ptr_eq(other, &self.writing));
        self.ranges.ended.wake_all();
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::testing::poll;

    fn turn(ranges: &Rc<Ranges>, at: u64, len: u64) -> std::pin::Pin<Box<dyn Future<Output = WriteTurn>>> {
        Box::pin(Rc::clone(ranges).turn(ByteOffset(at), ByteLen(len)))
    }

    #[test]
    fn overlapping_writes_take_turns_and_others_do_not_wait() {
        let ranges = Rc::new(Ranges::default());
        let mut first = turn(&ranges, 0, 1024);
        let std::task::Poll::Ready(held) =
            first.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
        else {
            panic!("nobody is in the way");
        };
        let (mut overlapping, mut beside) = (turn(&ranges, 512, 1024), turn(&ranges, 2048, 512));
        assert!(!poll(&mut overlapping));
        assert!(poll(&mut beside));
        drop((held, beside));
        assert!(poll(&mut overlapping));
    }

    /// B3. Goal: a newer write never passes an older one that waits; one that was given up is in nobody's way. Method: the newer touches
    /// only the one that waits, and is asked first when the range is free; then that one is dropped.
    #[test]
    fn a_newer_write_does_not_pass_one_that_waits() {
        let ranges = Rc::new(Ranges::default());
        let first = |turn: &mut std::pin::Pin<Box<dyn Future<Output = WriteTurn>>>| {
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match turn.as_mut().poll(&mut context) {
                std::task::Poll::Ready(held) => held,
                std::task::Poll::Pending => panic!("nobody is in the way"),
            }
        };
        let held = first(&mut turn(&ranges, 0, 1024));
        let (mut waits, mut newer) = (turn(&ranges, 512, 1024), turn(&ranges, 1024, 1024));
        assert!(!poll(&mut waits) && !poll(&mut newer));
        drop(held);
        assert!(!poll(&mut newer), "it passed the older one");
        drop(waits);
        assert!(poll(&mut newer));
        assert!(ranges.writing.borrow().is_empty(), "they are gone");
    }

    #[test]
    fn a_read_waits_only_for_a_write_in_doubt() {
        let ranges = Rc::new(Ranges::default());
        let held = {
            let mut first = turn(&ranges, 0, 1024);
            match first.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())) {
                std::task::Poll::Ready(held) => held,
                std::task::Poll::Pending => panic!("nobody is in the way"),
            }
        };
        assert!(poll(&mut Box::pin(ranges.settled(ByteOffset(0), ByteLen(512)))));
        held.doubt();
        let mut read = Box::pin(ranges.settled(ByteOffset(512), ByteLen(4096)));
        assert!(!poll(&mut read));
        drop(held);
        assert!(poll(&mut read));
    }
}
