//! Waiting for another task of the same thread: a list of wakers, in order of arrival.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// Tasks of one thread that wait for a change. Who waits looks at the state again after waking.
#[derive(Default)]
pub struct WaitList {
    waiting: RefCell<VecDeque<Rc<Ticket>>>,
}

#[derive(Default)]
struct Ticket(RefCell<TicketState>);

#[derive(Default)]
enum TicketState {
    #[default]
    New,
    Waiting(Waker),
    Called,
    Left,
}

impl WaitList {
    /// Waits until a wake that comes after this call.
    pub fn wait(&self) -> Wait {
        let ticket = Rc::new(Ticket::default());
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() == waiting.capacity() {
            // Before the list grows, those who left make room.
            waiting.retain(|ticket| !matches!(*ticket.0.borrow(), TicketState::Left));
        }
        waiting.push_back(Rc::clone(&ticket));
        Wait(ticket)
    }

    /// Wakes everybody who waits now.
    pub fn wake_all(&self) {
        let called = std::mem::take(&mut *self.waiting.borrow_mut());
        called.iter().for_each(|ticket| {
            ticket.call();
        });
    }

    /// Wakes the one who has waited longest, if any.
    pub fn wake_one(&self) {
        loop {
            let Some(first) = self.waiting.borrow_mut().pop_front() else {
                return;
            };
            if first.call() {
                return;
            }
        }
    }
}

impl Ticket {
    /// Whether somebody was there to hear it.
    fn call(&self) -> bool {
        match self.0.replace(TicketState::Called) {
            TicketState::Waiting(waker) => {
                waker.wake();
                true
            }
            TicketState::New | TicketState::Called => true,
            TicketState::Left => false,
        }
    }
}

/// The future of [`WaitList::wait`].
pub struct Wait(Rc<Ticket>);

impl Future for Wait {
    type Output = ();
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.0.borrow_mut();
        if matches!(*state, TicketState::Called) {
            return Poll::Ready(());
        }
        *state = TicketState::Waiting(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut state = self.0.0.borrow_mut();
        if !matches!(*state, TicketState::Called) {
            *state = TicketState::Left;
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;

    fn poll_once(wait: &mut Wait) -> bool {
        Pin::new(wait).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_wake_between_asking_and_waiting_is_not_lost() {
        let list = WaitList::default();
        let mut wait = list.wait();
        list.wake_all();
        assert!(poll_once(&mut wait));
    }

    /// Goal: who asks again and again, and leaves, does not fill the memory. Method: a long wait in small pieces.
    #[test]
    fn those_who_left_are_forgotten() {
        let list = WaitList::default();
        let mut stays = list.wait();
        for _ in 0..10_000 {
            assert!(!poll_once(&mut list.wait()));
        }
        assert!(list.waiting.borrow().len() < 100);
        assert!(!poll_once(&mut stays));
        list.wake_all();
        assert!(poll_once(&mut stays));
    }

    #[test]
    fn wake_one_skips_those_who_left() {
        let list = WaitList::default();
        let (first, mut second, mut third) = (list.wait(), list.wait(), list.wait());
        assert!(!poll_once(&mut second) && !poll_once(&mut third));
        drop(first);
        list.wake_one();
        assert!(poll_once(&mut second));
        assert!(!poll_once(&mut third));
    }
}
