//! Waiting for a device with nothing but the standard library.
//!
//! A backend never blocks: it answers "not yet" and calls a [`Waker`] later. Natively that waker
//! unparks the thread that waits here. In the browser nobody may wait: there the page's loop calls
//! [`Engine::poll`](crate::Engine::poll) with a waker of its own, and the waiting forms return an
//! error instead of hanging the page.

use gristmill_core::Result;
use std::sync::Arc;
use std::task::{Poll, Wake, Waker};
use std::thread::{self, Thread, ThreadId};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.unpark();
    }
}

/// The waker of the thread that steps the engine, made once and again only when the engine has
/// moved to another thread.
#[derive(Default)]
pub(crate) struct ThreadWaker(Option<(ThreadId, Waker)>);

impl ThreadWaker {
    /// The waker of this thread.
    pub fn get(&mut self) -> Waker {
        let here = thread::current();
        match &self.0 {
            Some((id, waker)) if *id == here.id() => waker.clone(),
            _ => {
                let id = here.id();
                let waker = Waker::from(Arc::new(Unpark(here)));
                self.0 = Some((id, waker.clone()));
                waker
            }
        }
    }
}

/// Polls until ready, parking this thread in between. `poll` must hand on the waker of this thread.
/// A wake-up between the poll and the park is not lost: parking then returns at once.
///
/// # Errors
/// Those of `poll`; in the browser [`gristmill_core::Error::Runtime`] instead of waiting.
pub(crate) fn block_on<T>(mut poll: impl FnMut() -> Result<Poll<T>>) -> Result<T> {
    loop {
        if let Poll::Ready(value) = poll()? {
            return Ok(value);
        }
        #[cfg(not(target_family = "wasm"))]
        thread::park();
        #[cfg(target_family = "wasm")]
        return Err(gristmill_core::Error::Runtime(
            "the device has not finished and this host cannot wait; call `poll` instead".into(),
        ));
    }
}

/// Asks until the answer is yes, as [`block_on`] does.
///
/// # Errors
/// As [`block_on`].
pub(crate) fn block_until(mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    block_on(|| Ok(if done()? { Poll::Ready(()) } else { Poll::Pending }))
}
