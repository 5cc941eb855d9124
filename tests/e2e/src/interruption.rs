//! Ctrl-C: whoever waits unwinds, so that everything that was started ends.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

static LISTENS: AtomicBool = AtomicBool::new(false);
static ASKED: AtomicBool = AtomicBool::new(false);

/// What unwinds a thread that was interrupted.
pub struct Interrupted;

/// From now on SIGINT, SIGTERM and SIGHUP interrupt what waits instead of ending this process.
pub fn listen() -> std::io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
    let [mut interrupt, mut terminate, mut hangup] = {
        let _inside = runtime.enter();
        [signal(kinds[0])?, signal(kinds[1])?, signal(kinds[2])?]
    };
    LISTENS.store(true, Ordering::Relaxed);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => {}
            }
        });
        ASKED.store(true, Ordering::Relaxed);
    });
    Ok(())
}

/// Whether this process ends its children itself: then a terminal's Ctrl-C must not reach them.
pub(crate) fn listens() -> bool {
    LISTENS.load(Ordering::Relaxed)
}

/// Whether somebody asked for the end.
pub fn asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// Unwinds with [`Interrupted`] if somebody asked for the end.
pub(crate) fn check() {
    if asked() {
        std::panic::resume_unwind(Box::new(Interrupted));
    }
}
