//! How a client reaches the target: the work runs in the target's process, the answer comes back or the process dies.
//!
//! A caller that is dropped leaves the work running; a [`Cut`] ends it as a torn connection does: the session's futures
//! are dropped where they stand, and what was started below goes on (rule 3 of the block device contract).

use crate::executor::Process;
use block::wait::WaitList;
use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

/// A flag that can be waited for.
#[derive(Default)]
pub struct Cut {
    set: Cell<bool>,
    waiting: WaitList,
}

impl Cut {
    /// Cuts, for good.
    pub fn cut(&self) {
        self.set.set(true);
        self.waiting.wake_all();
    }

    /// `work`, or `None` once this is cut; then `work` is dropped where it stands.
    pub async fn until<T>(self: &Rc<Self>, work: impl Future<Output = T>) -> Option<T> {
        until_cut(self, work).await
    }

    /// Whether it was cut.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.set.get()
    }
}

struct Line<T> {
    answer: RefCell<Option<T>>,
    closed: Cell<bool>,
    changed: WaitList,
}

/// The target's end of the line: whatever becomes of the task, the caller hears of it.
struct Far<T>(Rc<Line<T>>);

impl<T> Drop for Far<T> {
    fn drop(&mut self) {
        self.0.closed.set(true);
        self.0.changed.wake_all();
    }
}

/// Runs `work` in `process`; `None` if the process died or the line was cut first.
pub async fn call<T: 'static>(process: &Process, cut: &Rc<Cut>, work: impl Future<Output = T> + 'static) -> Option<T> {
    let line = Rc::new(Line { answer: RefCell::new(None), closed: Cell::new(false), changed: WaitList::default() });
    let (far, its_cut) = (Far(Rc::clone(&line)), Rc::clone(cut));
    process.go(async move {
        let far = far;
        if let Some(answer) = until_cut(&its_cut, work).await {
            *far.0.answer.borrow_mut() = Some(answer);
        }
    });
    loop {
        if let Some(answer) = line.answer.borrow_mut().take() {
            return Some(answer);
        }
        if line.closed.get() {
            return None;
        }
        line.changed.wait().await;
    }
}

/// `work`, or `None` once the line is cut; then `work` is dropped where it stands.
async fn until_cut<T>(cut: &Cut, work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    let mut cutting = cut.waiting.wait();
    poll_fn(|cx| {
        if cut.is_cut() || std::pin::Pin::new(&mut cutting).poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::executor::{Executor, Stopped};
    use crate::rng::Rng;

    /// Goal: the caller always hears: an answer, a death, a cut. Method: one call each.
    #[test]
    fn the_caller_always_hears() {
        let exec = Executor::new(Rng::new(1));
        let heard = Rc::new(RefCell::new(Vec::new()));
        let target = exec.process();
        let cuts: Vec<Rc<Cut>> = (0..3).map(|_| Rc::default()).collect();
        for (number, cut) in (0u64..).zip(&cuts) {
            let (target, cut, heard, sleeper) = (target.clone(), Rc::clone(cut), Rc::clone(&heard), exec.clone());
            exec.machine().go(async move {
                let answer = call(&target, &cut, async move {
                    sleeper.sleep_us(1000 * (number + 1)).await;
                })
                .await;
                heard.borrow_mut().push((number, answer.is_some()));
            });
        }
        exec.run(1500, || false);
        cuts[1].cut();
        exec.run(1600, || false);
        target.kill();
        assert_eq!(exec.run(u64::MAX, || false), Stopped::Quiet);
        assert_eq!(*heard.borrow(), [(0, true), (1, false), (2, false)]);
    }
}
