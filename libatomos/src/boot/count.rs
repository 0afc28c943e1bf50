//! The script by which GRUB counts.
//!
//! GRUB's language has no arithmetic, so each step down is a comparison. An entry on trial is taken only if its count
//! could be lowered and saved first: one that cannot be counted could be tried forever, and a machine that nobody can
//! reach would never come back from it. Only where nothing else is left is it taken all the same.
//!
//! Which entry is taken: the first that is not out of tries, in the menu's order. The ones after it are GRUB's
//! `fallback`, for a kernel that cannot even be loaded. Where all are out of tries, the oldest.

use std::fmt::Write;

use super::grub_env::{ENV, LEFT};
use super::menu::quote;
use super::name::Tries;

/// The most tries that a script counts; more are taken as this many.
pub(super) const MAX_TRIES: u32 = 9;

/// How an entry is counted by GRUB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Counting {
    /// Not at all.
    Free,
    /// So many tries are left, unless the environment block says fewer.
    Left(u32),
    /// It has run out of tries.
    Out,
}

impl Counting {
    pub(super) fn of(tries: Option<Tries>, can_write: bool) -> Self {
        match tries {
            None => Self::Free,
            Some(Tries { left: 0, .. }) => Self::Out,
            Some(tries) if can_write => Self::Left(tries.left.min(MAX_TRIES)),
            // The running system counts.
            Some(_) => Self::Free,
        }
    }
}

/// An entry, as the script knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Counted {
    /// Its number.
    pub(super) n: u64,
    /// How GRUB calls it.
    pub(super) id: String,
    /// How it is counted.
    pub(super) counting: Counting,
}

macro_rules! put {
    ($text:ident, $($part:tt)*) => {
        writeln!($text, $($part)*).expect("a string takes what is written to it")
    };
}

/// Reads the counts, and works out what each would be after one more try: nothing, where there is none left.
pub(super) fn load(entries: &[Counted]) -> String {
    let mut text = String::new();
    for entry in entries {
        let n = entry.n;
        let Counting::Left(initial) = entry.counting else {
            continue;
        };
        put!(text, "set {LEFT}{n}=");
        put!(text, "load_env --file \"${{prefix}}/{ENV}\" {LEFT}{n}");
        put!(
            text,
            "if [ -z \"${{{LEFT}{n}}}\" ]; then set {LEFT}{n}={initial}; fi"
        );
        put!(text, "set atomos_next_{n}=");
        for left in (1..=initial).rev() {
            put!(
                text,
                "if [ \"${{{LEFT}{n}}}\" = {left} ]; then set atomos_next_{n}={}; fi",
                left - 1
            );
        }
    }
    text
}

/// Chooses the entry to take, unless somebody set another default.
pub(super) fn choose(entries: &[Counted]) -> String {
    let mut text = String::new();
    put!(text, "if [ \"${{default}}\" = 0 -o -z \"${{default}}\" ]; then");
    put!(text, "\tset default=\n\tset fallback=");
    for entry in entries.iter().rev() {
        let id = quote(&entry.id);
        let take = format!("set fallback=\"${{default}} ${{fallback}}\"; set default={id}");
        match entry.counting {
            Counting::Free => put!(text, "\t{take}"),
            Counting::Left(_) => put!(
                text,
                "\tif [ -n \"${{atomos_next_{}}}\" ]; then {take}; fi",
                entry.n
            ),
            Counting::Out => {}
        }
    }
    if let Some(oldest) = entries.iter().min_by_key(|entry| entry.n) {
        let id = quote(&oldest.id);
        put!(text, "\tif [ -z \"${{default}}\" ]; then set default={id}; fi");
    }
    put!(text, "fi");
    text
}

/// Returns what stands in the entry before and after what loads its kernel.
pub(super) fn count_in_entry(entry: &Counted, all: &[Counted]) -> (String, String) {
    if !matches!(entry.counting, Counting::Left(_)) {
        return (String::new(), String::new());
    }
    let n = entry.n;
    let mut before = String::new();
    let mut after = String::new();
    put!(before, "\tset atomos_counted=1");
    put!(before, "\tif [ -n \"${{atomos_next_{n}}}\" ]; then");
    put!(before, "\t\tset {LEFT}{n}=\"${{atomos_next_{n}}}\"");
    put!(
        before,
        "\t\tif save_env --file \"${{prefix}}/{ENV}\" {LEFT}{n}; then set atomos_counted=1; else set atomos_counted=0; fi"
    );
    put!(before, "\tfi");
    if all.iter().any(|other| other.counting == Counting::Free) {
        put!(before, "\tif [ \"${{atomos_counted}}\" = 1 ]; then");
        put!(after, "\telse");
        put!(
            after,
            "\t\techo 'This version is on trial, and GRUB cannot save how often it was tried.'"
        );
        put!(after, "\tfi");
    }
    (before, after)
}

/// Counts the entry that was chosen, where its own commands are not ours.
pub(super) fn count_now(entries: &[Counted]) -> String {
    let mut text = String::new();
    let free = entries.iter().find(|entry| entry.counting == Counting::Free);
    for entry in entries {
        if !matches!(entry.counting, Counting::Left(_)) {
            continue;
        }
        let (n, id) = (entry.n, quote(&entry.id));
        put!(
            text,
            "if [ \"${{default}}\" = {id} -a -n \"${{atomos_next_{n}}}\" ]; then"
        );
        put!(text, "\tset {LEFT}{n}=\"${{atomos_next_{n}}}\"");
        put!(text, "\tset atomos_counted=0");
        put!(
            text,
            "\tif save_env --file \"${{prefix}}/{ENV}\" {LEFT}{n}; then set atomos_counted=1; fi"
        );
        if let Some(free) = free {
            let free = quote(&free.id);
            put!(
                text,
                "\tif [ \"${{atomos_counted}}\" = 0 ]; then set default={free}; fi"
            );
        }
        put!(text, "fi");
    }
    text
}
