//! Tasks that nobody waits for, watched: what panics in one of them ends the node, which is started anew and takes its
//! guests over. A guest without its task would look obeyed, and none of its orders would be.

use futures_util::FutureExt;
use std::any::Any;
use std::cell::RefCell;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

/// What a panic said.
pub type Panic = Box<dyn Any + Send>;

/// All of them.
#[derive(Clone, Default)]
pub struct Tasks(Rc<First>);

/// The first panic; the node ends with it, so there is no second one to tell of.
#[derive(Default)]
struct First {
    panic: RefCell<Option<Panic>>,
    woken: Notify,
}

impl Tasks {
    /// Begins a task.
    pub fn spawn(&self, work: impl Future<Output = ()> + 'static) -> AbortHandle {
        let first = Rc::clone(&self.0);
        let watched = async move {
            // Nothing that it left half done is looked at any more: the node ends.
            if let Err(panic) = AssertUnwindSafe(work).catch_unwind().await {
                first.panic.borrow_mut().get_or_insert(panic);
                first.woken.notify_one();
            }
        };
        tokio::task::spawn_local(watched).abort_handle()
    }

    /// Waits until one has panicked.
    pub async fn panicked(&self) -> Panic {
        loop {
            if let Some(panic) = self.0.panic.borrow_mut().take() {
                return panic;
            }
            self.0.woken.notified().await;
        }
    }
}
