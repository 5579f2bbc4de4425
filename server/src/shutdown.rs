//! Stopping in two steps: first nothing new is begun and feeds end, later whatever still runs is cut short.

use std::time::Duration;

use tokio::sync::watch;

/// How far the shutdown has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Running,
    Draining,
    Expired,
}

/// The shutdown of one server, shared by everyone who must notice it.
#[derive(Debug, Clone)]
pub(crate) struct Shutdown {
    stage: watch::Sender<Stage>,
}

impl Shutdown {
    /// A server that runs.
    pub(crate) fn new() -> Self {
        Self { stage: watch::Sender::new(Stage::Running) }
    }

    /// Begins: no new connections, no new feeds; statements go on.
    pub(crate) fn begin(&self) {
        self.stage.send_if_modified(|stage| advance(stage, Stage::Draining));
    }

    /// The grace time is over: statements that still run get `SHUTTING_DOWN`.
    pub(crate) fn expire(&self) {
        self.stage.send_if_modified(|stage| advance(stage, Stage::Expired));
    }

    /// True from [`Shutdown::begin`] on.
    pub(crate) fn begun(&self) -> bool {
        *self.stage.borrow() >= Stage::Draining
    }

    /// Completes at [`Shutdown::begin`].
    pub(crate) fn on_begin(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Stage::Draining)
    }

    /// Completes at [`Shutdown::expire`].
    pub(crate) fn on_expiry(&self) -> impl Future<Output = ()> + Send + 'static {
        self.reached(Stage::Expired)
    }

    fn reached(&self, wanted: Stage) -> impl Future<Output = ()> + Send + 'static {
        let mut stage = self.stage.subscribe();
        // The channel cannot be closed while somebody holds a server's state; if it is, the server is gone as well.
        async move { drop(stage.wait_for(|stage| *stage >= wanted).await) }
    }
}

fn advance(stage: &mut Stage, to: Stage) -> bool {
    let further = *stage < to;
    *stage = (*stage).max(to);
    further
}

/// Completes at the first SIGINT or SIGTERM.
///
/// # Errors
/// If the handlers cannot be installed.
pub(crate) async fn signalled() -> std::io::Result<&'static str> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(tokio::select! {
        _ = interrupt.recv() => "SIGINT",
        _ = terminate.recv() => "SIGTERM",
    })
}

/// Splits the grace time: statements get most of it, their answers the rest.
pub(crate) fn split_grace(grace: Duration) -> (Duration, Duration) {
    let for_answers = (grace / 5).min(Duration::from_secs(1));
    (grace - for_answers, for_answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stages_are_seen_by_those_who_wait_and_by_those_who_come_late() {
        let shutdown = Shutdown::new();
        let waiting = tokio::spawn(shutdown.on_begin());
        assert!(!shutdown.begun());
        shutdown.begin();
        waiting.await.unwrap();
        assert!(shutdown.begun());
        shutdown.expire();
        shutdown.begin();
        shutdown.on_begin().await;
        shutdown.on_expiry().await;
    }

    #[test]
    fn the_grace_time_is_never_exceeded() {
        for grace in [Duration::ZERO, Duration::from_millis(10), Duration::from_secs(10)] {
            let (statements, answers) = split_grace(grace);
            assert_eq!(statements + answers, grace);
        }
    }
}
