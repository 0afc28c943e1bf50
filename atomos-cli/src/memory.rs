//! What the C library's allocator keeps of freed memory.
#![allow(unsafe_code)]

/// Allocations of at least this many bytes are mapped by themselves, and given back to the system when they are freed.
#[cfg(target_env = "gnu")]
const MAPPED: libc::c_int = 4 << 20;

/// What may lie unused at the end of a heap. Without it every buffer of some hundred kilobytes has the heap grow and shrink.
#[cfg(target_env = "gnu")]
const UNUSED: libc::c_int = 1 << 20;

/// Has large buffers given back when they are freed. glibc begins like that, but takes the size of each that is freed for one that comes often,
/// up to 32 MB; it keeps those in the heap of the thread then, where a small one above holds all of them: making patches held a hundred
/// megabytes more than it used. `mallopt(3)`.
pub fn give_back_large_buffers() {
    #[cfg(target_env = "gnu")]
    // SAFETY: the calls change numbers of the allocator's, and no other thread runs yet. That they fail is without harm.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED);
        // The first has the allocator forget how to choose this one.
        libc::mallopt(libc::M_TRIM_THRESHOLD, UNUSED);
    }
}
