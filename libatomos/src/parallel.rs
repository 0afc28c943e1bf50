//! Threads for one operation.
//!
//! Each operation has a pool of its own, so a program that embeds the library keeps its global rayon pool as it is.

use std::sync::{Condvar, Mutex, PoisonError};

use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Trees are walked recursively; this is room for the deepest one that the format allows.
const STACK: usize = 32 * 1024 * 1024;

/// Makes a pool of `threads`, or as many as there are processors. Where no thread can be had the work is done by
/// however many there are, at worst by the caller's own.
pub(crate) fn pool(threads: Option<usize>) -> ThreadPool {
    let build = |threads: usize| {
        ThreadPoolBuilder::new()
            .num_threads(threads)
            .stack_size(STACK)
            .thread_name(|index| format!("atomos-{index}"))
            .build()
    };
    match build(threads.unwrap_or(0)) {
        Ok(pool) => pool,
        Err(_) => ThreadPoolBuilder::new()
            .num_threads(1)
            .use_current_thread()
            .build()
            .expect("a pool of the calling thread alone starts no thread"),
    }
}

/// Does `work` for every item on the pool, in any order, until one fails; in the caller's own thread and in order, where the pool has one
/// thread.
pub(crate) fn each<T: Sync, E: Send>(
    pool: &ThreadPool,
    items: &[T],
    work: impl Fn(&T) -> Result<(), E> + Sync + Send,
) -> Result<(), E> {
    match pool.current_num_threads() {
        1 => items.iter().try_for_each(work),
        _ => pool.install(|| items.par_iter().try_for_each(work)),
    }
}

/// Does `work` for every one of `0..count` on `threads` threads, and gives the results to `sink` in order, in the
/// caller's thread. At most `ahead` results wait at any time, so the memory that they take is bounded.
pub(crate) fn in_order<T: Send, E: Send>(
    count: usize,
    threads: usize,
    ahead: usize,
    work: impl Fn(usize) -> Result<T, E> + Sync,
    mut sink: impl FnMut(usize, T) -> Result<(), E>,
) -> Result<(), E> {
    use std::collections::BTreeMap;

    struct State<T, E> {
        next: usize,
        given: usize,
        done: BTreeMap<usize, Result<T, E>>,
        stop: bool,
    }
    let state = Mutex::new(State {
        next: 0,
        given: 0,
        done: BTreeMap::new(),
        stop: false,
    });
    let (worked, gave) = (Condvar::new(), Condvar::new());
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    /// However the caller's thread leaves, the workers must not wait for it.
    struct Stop<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Stop<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    std::thread::scope(|scope| {
        let _stop = Stop(|| {
            lock().stop = true;
            gave.notify_all();
        });
        for _ in 0..threads.clamp(1, count.max(1)) {
            scope.spawn(|| {
                loop {
                    let index = {
                        let mut state = lock();
                        while !state.stop && state.next < count && state.next >= state.given + ahead {
                            state = gave.wait(state).unwrap_or_else(PoisonError::into_inner);
                        }
                        if state.stop || state.next >= count {
                            return;
                        }
                        state.next += 1;
                        state.next - 1
                    };
                    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(index)));
                    let mut state = lock();
                    match result {
                        Ok(result) => {
                            state.done.insert(index, result);
                            worked.notify_all();
                        }
                        Err(panic) => {
                            state.stop = true;
                            worked.notify_all();
                            drop(state);
                            std::panic::resume_unwind(panic);
                        }
                    }
                }
            });
        }
        for index in 0..count {
            let result = {
                let mut state = lock();
                loop {
                    if let Some(result) = state.done.remove(&index) {
                        state.given += 1;
                        break result;
                    }
                    if state.stop {
                        // A worker panicked; the scope will say so.
                        return Ok(());
                    }
                    state = worked.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            gave.notify_all();
            sink(index, result?)?;
        }
        Ok(())
    })
}

/// Does both at the same time, `first` on a thread of its own where one can be had.
pub(crate) fn both<A: Send, B>(first: impl FnOnce() -> A + Send, second: impl FnOnce() -> B) -> (A, B) {
    let first = Mutex::new(Some(first));
    let run = || {
        let taken = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        taken.map(|first| first())
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("atomos-both".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, run);
        let second = second();
        let first = match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            Err(_) => run(),
        };
        (first.expect("it is taken once"), second)
    })
}

/// Returns how many threads there may be: what was asked for, or one for each processor.
pub(crate) fn threads(asked: Option<usize>) -> usize {
    asked.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// Keeps threads from using too much of something at once.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Mutex<u64>,
    freed: Condvar,
}

/// A share of a budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share<'b>(&'b Budget, u64);

impl Budget {
    pub(crate) const fn new(limit: u64) -> Self {
        Self {
            limit,
            used: Mutex::new(0),
            freed: Condvar::new(),
        }
    }

    /// Waits until `amount` may be used. More than there is gets all of it.
    pub(crate) fn take(&self, amount: u64) -> Share<'_> {
        let amount = amount.min(self.limit);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        while *used + amount > self.limit {
            used = self.freed.wait(used).unwrap_or_else(PoisonError::into_inner);
        }
        *used += amount;
        Share(self, amount)
    }
}

impl Drop for Share<'_> {
    fn drop(&mut self) {
        *self.0.used.lock().unwrap_or_else(PoisonError::into_inner) -= self.1;
        self.0.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn both_are_done_at_the_same_time() {
        let meet = std::sync::Barrier::new(2);
        let wait = |number| {
            meet.wait();
            number
        };
        assert_eq!(super::both(|| wait(1), || wait(2)), (1, 2));
    }

    #[test]
    fn results_come_in_order_and_never_too_many_at_once() {
        let waiting = AtomicUsize::new(0);
        let mut seen = Vec::new();
        super::in_order::<_, ()>(
            1000,
            4,
            8,
            |index| {
                assert!(waiting.fetch_add(1, Ordering::SeqCst) <= 8 + 4);
                Ok(index)
            },
            |index, value| {
                assert_eq!(index, value);
                waiting.fetch_sub(1, Ordering::SeqCst);
                seen.push(value);
                Ok(())
            },
        )
        .unwrap();
        assert_eq!(seen, (0..1000).collect::<Vec<_>>());
        let failed = super::in_order(
            100,
            3,
            4,
            |index| if index == 50 { Err(index) } else { Ok(()) },
            |_, ()| Ok(()),
        );
        assert_eq!(failed, Err(50));
        let failed = super::in_order(100, 3, 4, Ok::<_, usize>, |index, _| {
            if index == 7 { Err(7) } else { Ok(()) }
        });
        assert_eq!(failed, Err(7));
    }
}
