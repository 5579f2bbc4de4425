//! A future that is polled again at once when it wakes itself.
//!
//! A connection wakes itself with every request that has a body: the half that reads and the half that answers tell each
//! other through a channel what they took, and are one task. The runtime cannot know that. It sees a task that is ready
//! while another is being polled, and wakes one of its threads to take it, which takes longer than the request does.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures::task::AtomicWaker;
use pin_project_lite::pin_project;

/// How often a future is polled for one wake from outside. One that has more to do than that lets others go first.
const POLLS: usize = 4;

pin_project! {
    /// See the module.
    pub(crate) struct Again<F> {
        #[pin]
        future: F,
        own: Arc<Own>,
        waker: Waker,
    }
}

impl<F> Again<F> {
    pub(crate) fn new(future: F) -> Self {
        let own = Arc::new(Own { state: AtomicU8::new(RESTING), task: AtomicWaker::new() });
        Self { future, waker: Waker::from(own.clone()), own }
    }
}

impl<F: Future> Future for Again<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let mut this = self.project();
        this.own.task.register(cx.waker());
        for _ in 0..POLLS {
            this.own.state.store(POLLED, Ordering::Release);
            let polled = this.future.as_mut().poll(&mut Context::from_waker(this.waker));
            // Who wakes it after this wakes the task.
            if this.own.state.swap(RESTING, Ordering::AcqRel) != WOKEN || polled.is_ready() {
                return polled;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Nobody polls it: a wake is the task's.
const RESTING: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It was woken meanwhile.
const WOKEN: u8 = 2;

/// What the future is woken by.
struct Own {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Own {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let noted = self.state.compare_exchange(POLLED, WOKEN, Ordering::AcqRel, Ordering::Acquire);
        if noted == Err(RESTING) {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Mutex;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn poll<F: Future>(future: Pin<&mut Again<F>>, task: &Arc<Task>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(&task.clone().into()))
    }

    #[test]
    fn a_future_that_wakes_itself_is_polled_again_and_its_task_sleeps_on() {
        let (task, mut polls) = (Arc::new(Task::default()), 0);
        let mut future = pin!(Again::new(poll_fn(move |cx| {
            polls += 1;
            cx.waker().wake_by_ref();
            if polls == 3 { Poll::Ready(polls) } else { Poll::Pending }
        })));
        assert_eq!(poll(future.as_mut(), &task), Poll::Ready(3));
        assert_eq!(task.0.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn one_that_never_stops_lets_others_go_first() {
        let (task, polls) = (Arc::new(Task::default()), AtomicUsize::new(0));
        let mut future = pin!(Again::new(poll_fn(|cx| {
            polls.fetch_add(1, Ordering::SeqCst);
            cx.waker().wake_by_ref();
            Poll::<()>::Pending
        })));
        assert!(poll(future.as_mut(), &task).is_pending());
        assert_eq!((polls.load(Ordering::SeqCst), task.0.load(Ordering::SeqCst)), (POLLS, 1));
    }

    #[test]
    fn a_wake_from_outside_is_the_tasks() {
        let (task, kept) = (Arc::new(Task::default()), Mutex::new(None::<Waker>));
        let mut future =
            pin!(Again::new(poll_fn(|cx| match kept.lock().unwrap().replace(cx.waker().clone()) {
                None => Poll::Pending,
                Some(_) => Poll::Ready(()),
            })));
        assert!(poll(future.as_mut(), &task).is_pending());
        assert_eq!(task.0.load(Ordering::SeqCst), 0);
        let waker = kept.lock().unwrap().clone().unwrap();
        waker.wake();
        assert_eq!(task.0.load(Ordering::SeqCst), 1);
        assert!(poll(future.as_mut(), &task).is_ready());
    }

    #[test]
    fn no_wake_is_lost_whenever_it_comes() {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        for _ in 0..2_000 {
            let done = Arc::new((AtomicU8::new(0), AtomicWaker::new()));
            let theirs = done.clone();
            let other = std::thread::spawn(move || {
                theirs.0.store(1, Ordering::SeqCst);
                theirs.1.wake();
            });
            let mut future = pin!(Again::new(poll_fn(|cx| {
                done.1.register(cx.waker());
                if done.0.load(Ordering::SeqCst) == 1 { Poll::Ready(()) } else { Poll::Pending }
            })));
            while future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
                std::thread::park();
            }
            other.join().unwrap();
        }
    }
}
