//! Threads for one operation.
//!
//! Each operation has a pool of its own, so a program that embeds the library keeps its global rayon pool as it is.

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
