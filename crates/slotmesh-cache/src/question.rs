//! The question that begins a load: whether the cluster has the value.
//!
//! Mostly it has, and a task for that would cost its caller two changes of threads. So the first caller asks by itself, as long as it is
//! the only one; the question becomes a task of its own as soon as somebody else waits for it or the caller goes, for neither may depend
//! on a caller that is polled no more. For the same reason it is a read, which others do not wait for.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::Poll;

use parking_lot::Mutex;
use tokio::runtime::Handle;

/// Asking, to its end.
pub(crate) type Asking = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A question as long as its caller asks it, and the runtime that goes on with it.
#[derive(Default)]
pub(crate) struct Question {
    asking: Mutex<Option<(Asking, Handle)>>,
    is_crowded: AtomicBool,
}

/// The caller: when this is dropped a task goes on.
pub(crate) struct Caller<'a>(&'a Question);

impl Question {
    /// Begins it.
    pub(crate) fn by(&self, asking: Asking, runtime: Handle) -> Caller<'_> {
        *self.asking.lock() = Some((asking, runtime));
        Caller(self)
    }

    /// Somebody waits who does not ask.
    pub(crate) fn hand_over(&self) {
        self.is_crowded.store(true, Ordering::Relaxed);
        // Either this finds the question in its place, or who asks just now finds this when it has put it back.
        fence(Ordering::SeqCst);
        let asking = self.asking.try_lock().and_then(|mut asking| asking.take());
        if let Some((asking, runtime)) = asking {
            runtime.spawn(asking);
        }
    }
}

impl Caller<'_> {
    /// Asks until there is an answer or a task goes on.
    pub(crate) async fn ask(&self) {
        let Self(question) = self;
        poll_fn(|context| {
            let mut place = question.asking.lock();
            // Not in its place while it is polled: a panic leaves nothing there.
            let Some((mut asking, runtime)) = place.take() else { return Poll::Ready(()) };
            if asking.as_mut().poll(context).is_ready() {
                drop(place);
                return Poll::Ready(());
            }
            *place = Some((asking, runtime));
            drop(place);
            fence(Ordering::SeqCst);
            if question.is_crowded.load(Ordering::Relaxed) {
                question.hand_over();
                return Poll::Ready(());
            }
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        self.0.hand_over();
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
        question.by(asking, runtime).ask().await;
        assert_eq!(answered.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn somebody_else_goes_on_when_the_caller_does_not() {
        for is_dropped in [true, false] {
            let (question, runtime) = (Question::default(), Handle::current());
            let (answer, answered, asking) = self::question();
            let caller = question.by(asking, runtime);
            let mut asks = Box::pin(caller.ask());
            assert!((&mut asks).now_or_never().is_none());
            // The caller is there and polled no more, or gone.
            if is_dropped {
                drop(asks);
                drop(caller);
            } else {
                question.hand_over();
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
        question.hand_over();
        let (answer, answered, asking) = self::question();
        question.by(asking, runtime).ask().await;
        assert_eq!(answered.load(Ordering::SeqCst), 0, "a task asks");
        answer.notify_one();
        while answered.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    }
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn of_a_caller_and_one_who_comes_meanwhile_one_leaves_it_to_a_task() {
        for _ in 0..500 {
            let (question, runtime) = (Question::default(), Handle::current());
            let (answer, answered, asking) = self::question();
            let caller = question.by(asking, runtime);
            std::thread::scope(|threads| {
                threads.spawn(|| question.hand_over());
                // Polled once, and no more.
                let _nothing_yet = caller.ask().now_or_never();
            });
            answer.notify_one();
            while answered.load(Ordering::SeqCst) == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}
