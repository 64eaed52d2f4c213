use std::future::Future;
use std::pin::Pin;

use parking_lot::Mutex;

/// What is to be done before the node goes.
#[derive(Default)]
pub(super) struct BeforeLeaving(Mutex<Vec<Box<Work>>>);

type Work = dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync;

impl BeforeLeaving {
    pub(super) fn add(
        &self,
        work: impl Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync + 'static,
    ) {
        self.0.lock().push(Box::new(work));
    }

    /// All of it, side by side.
    pub(super) async fn all(&self) {
        let mut works: Vec<_> = self.0.lock().iter().map(|work| work()).collect();
        std::future::poll_fn(|context| {
            works.retain_mut(|work| work.as_mut().poll(context).is_pending());
            if works.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}
