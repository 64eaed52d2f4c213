//! The question that begins a load: whether the cluster has the value, or this process may load it.
//!
//! Mostly the cluster has it, and a task for that would cost its caller two changes of threads. So the first caller asks by itself, as long as it is
//! the only one; the question becomes a task of its own as soon as somebody else waits for it or the caller goes, for neither may depend
//! on a caller that is polled no more.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Asking, to its end.
pub(crate) type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A question as long as its caller asks it.
#[derive(Default)]
pub(crate) struct Question {
    asking: Mutex<Option<Asking>>,
    is_crowded: AtomicBool,
}

/// The caller: when this is dropped somebody else goes on.
pub(crate) struct Caller<'a> {
    question: &'a Question,
    runtime: &'a Handle,
}

impl Question {
    /// Begins it.
    pub(crate) fn by<'a>(&'a self, asking: Asking, runtime: &'a Handle) -> Caller<'a> {
        *self.asking.lock() = Some(asking);
        Caller { question: self, runtime }
    }

    /// Somebody waits who does not ask.
    pub(crate) fn hand_over(&self, runtime: &Handle) {
        self.is_crowded.store(true, Ordering::SeqCst);
        // Who has the lock asks just now, and looks then.
        let asking = self.asking.try_lock().and_then(|mut asking| asking.take());
        if let Some(asking) = asking {
            runtime.spawn(asking);
        }
    }
}

impl Caller<'_> {
    /// Asks until there is an answer or somebody else goes on.
    pub(crate) async fn ask(&self) {
        let Self { question, runtime } = self;
        poll_fn(|context| {
            let mut place = question.asking.lock();
            // Not in its place while it is polled: a panic leaves nothing there.
            let Some(mut asking) = place.take() else { return Poll::Ready(()) };
            if asking.as_mut().poll(context).is_ready() {
                drop(place);
                return Poll::Ready(());
            }
            *place = Some(asking);
            drop(place);
            if question.is_crowded.load(Ordering::SeqCst) {
                question.hand_over(runtime);
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.question.hand_over(self.runtime);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicU32;

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    /// A question that is answered when this is notified, and how often it was.
    fn question() -> (Arc<Notify>, Arc<AtomicU32>, Asking) {
        let (answer, answered) = (Arc::new(Notify::new()), Arc::new(AtomicU32::new(0)));
        let (waits, counts) = (Arc::clone(&answer), Arc::clone(&answered));
        let asking = Box::pin(async move {
            waits.notified().await;
            counts.fetch_add(1, Ordering::SeqCst);
        });
        (answer, answered, asking)
    }

    #[tokio::test]
    async fn a_caller_asks_by_itself() {
        let (question, runtime) = (Question::default(), Handle::current());
        let (answer, answered, asking) = self::question();
        answer.notify_one();
        question.by(asking, &runtime).ask().await;
        assert_eq!(answered.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn somebody_else_goes_on_when_the_caller_does_not() {
        for is_dropped in [true, false] {
            let (question, runtime) = (Question::default(), Handle::current());
            let (answer, answered, asking) = self::question();
            let caller = question.by(asking, &runtime);
            let mut asks = Box::pin(caller.ask());
            assert!((&mut asks).now_or_never().is_none());
            // The caller is there and polled no more, or gone.
            if is_dropped {
                drop(asks);
                drop(caller);
            } else {
                question.hand_over(&runtime);
            }
            answer.notify_one();
            while answered.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[tokio::test]
    async fn who_comes_before_it_begins_is_not_forgotten() {
        let (question, runtime) = (Question::default(), Handle::current());
        question.hand_over(&runtime);
        let (answer, answered, asking) = self::question();
        question.by(asking, &runtime).ask().await;
        assert_eq!(answered.load(Ordering::SeqCst), 0, "a task asks");
        answer.notify_one();
        while answered.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
}
