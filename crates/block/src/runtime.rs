//! What block code is handed instead of a clock and threads: the moment, a way to wait, a way to leave work running.

use crate::DeviceError;
use crate::device::IoFuture;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use units::{Millis, Moment};

/// A task that ends with nothing.
pub type Task = Pin<Box<dyn Future<Output = ()>>>;

/// The world of one data-plane thread: tokio's in production, a seeded one in the simulator.
pub trait Runtime {
    /// The moment on the steady clock.
    fn now(&self) -> Moment;
    /// Waits until `when`.
    fn sleep_until(&self, when: Moment) -> Task;
    /// Leaves `task` running on this thread.
    fn spawn(&self, task: Task);
}

/// A runtime shared by the devices of one thread.
pub type Rt = Rc<dyn Runtime>;

/// Waits for `span`.
pub fn sleep(rt: &Rt, span: Millis) -> Task {
    rt.sleep_until(rt.now() + span)
}

/// Makes `work` run to its end even if the returned future is dropped: what is left of it then goes to `rt`
/// (rule 3 of [`crate::device`]). Costs nothing while the future lives.
pub fn run_to_end<T: Unpin + 'static>(
    rt: &Rt,
    work: impl Future<Output = Result<T, DeviceError>> + 'static,
) -> IoFuture<T> {
    IoFuture::later(RunToEnd { rt: Rc::clone(rt), work: Some(Box::pin(work)), started: false })
}

struct RunToEnd<F: Future + 'static> {
    rt: Rt,
    work: Option<Pin<Box<F>>>,
    started: bool,
}

impl<F: Future + 'static> Future for RunToEnd<F> {
    type Output = F::Output;
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.started = true;
        let work = self.work.as_mut().expect("polled again after it was ready");
        let answer = std::task::ready!(work.as_mut().poll(cx));
        self.work = None;
        Poll::Ready(answer)
    }
}

impl<F: Future + 'static> Drop for RunToEnd<F> {
    fn drop(&mut self) {
        if let (true, Some(work)) = (self.started, self.work.take()) {
            self.rt.spawn(Box::pin(async move {
                let _ = work.await;
            }));
        }
    }
}

#[cfg(test)]
mod test {
    use super::*;
    use crate::wait::WaitList;
    use std::cell::{Cell, RefCell};

    #[derive(Default)]
    struct Basket(RefCell<Vec<Task>>);
    impl Runtime for Basket {
        fn now(&self) -> Moment {
            Moment(0)
        }
        fn sleep_until(&self, _when: Moment) -> Task {
            Box::pin(std::future::ready(()))
        }
        fn spawn(&self, task: Task) {
            self.0.borrow_mut().push(task);
        }
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> bool {
        Pin::new(future).poll(&mut Context::from_waker(std::task::Waker::noop())).is_ready()
    }

    /// Goal: a started operation outlives its future. Method: drop it half way, run what the runtime was given.
    #[test]
    fn a_dropped_operation_goes_on() {
        let basket = Rc::new(Basket::default());
        let rt: Rt = Rc::<Basket>::clone(&basket);
        let (done, gate) = (Rc::new(Cell::new(false)), Rc::new(WaitList::default()));
        let start = || {
            let (done, gate) = (Rc::clone(&done), Rc::clone(&gate));
            run_to_end(&rt, async move {
                gate.wait().await;
                done.set(true);
                Ok(())
            })
        };
        drop(start());
        assert!(basket.0.borrow().is_empty(), "what was never polled was never started");

        let mut begun = start();
        assert!(!poll_once(&mut begun));
        drop(begun);
        let mut left = basket.0.borrow_mut().pop().expect("the rest goes to the runtime");
        assert!(!poll_once(&mut left));
        gate.wake_all();
        assert!(poll_once(&mut left));
        assert!(done.get());
    }
}
