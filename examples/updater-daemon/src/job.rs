//! Work in a thread of its own, that any other thread can end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};

use libatomos::{Cancel, Progress};

use crate::{Board, Error};

/// A running operation.
#[derive(Debug)]
pub struct Job<T> {
    cancel: Cancel,
    board: Arc<Board>,
    thread: JoinHandle<Result<T, Error>>,
}

impl<T: Send + 'static> Job<T> {
    /// Starts `work`. `also` hears every event as well as the job's own board.
    pub(crate) fn start(
        also: Arc<dyn Progress>,
        work: impl FnOnce(&dyn Progress, &Cancel) -> Result<T, Error> + Send + 'static,
    ) -> Self {
        let (cancel, board) = (Cancel::new(), Arc::new(Board::new()));
        let (for_thread, tee) = (cancel.clone(), Tee(Arc::clone(&board), also));
        let thread = thread::spawn(move || work(&tee, &for_thread));
        Self {
            cancel,
            board,
            thread,
        }
    }

    /// Asks the operation to end. It does so before the next file; [`Job::wait`] says how it ended.
    pub fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Returns a flag that ends the operation, to be given to another thread.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Returns where the operation says how far it is.
    pub fn board(&self) -> &Board {
        &self.board
    }

    /// Returns whether there is nothing to wait for any more.
    pub fn is_finished(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Of the operation; [`Error::is_cancelled`] where somebody cancelled it in time.
    pub fn wait(self) -> Result<T, Error> {
        self.thread.join().unwrap_or(Err(Error::Panicked))
    }
}

/// Tells two listeners.
struct Tee(Arc<Board>, Arc<dyn Progress>);

impl Progress for Tee {
    fn report(&self, event: libatomos::progress::Event<'_>) {
        self.0.report(event);
        self.1.report(event);
    }
}
