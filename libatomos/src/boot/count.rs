//! The script by which GRUB counts.
//!
//! GRUB's language has no arithmetic, so each step down is a comparison. An entry on trial is taken only if its count
//! could be lowered and saved first: one that cannot be counted could be tried forever, and a machine that nobody can
//! reach would never come back from it. Only where nothing else is left is it taken all the same.
//!
//! Which entry is taken: the first that is not out of tries, in the menu's order; where all are, the oldest. An entry on trial
//! that must not be taken, or whose kernel cannot be loaded, loads the kernel of the first that is not counted instead, by
//! its own commands: GRUB's `fallback` knows entries by their position alone (2.06), which what a person adds to the menu
//! changes, and a menu that waits for a key is a machine that is lost.

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
    put!(text, "\tset default=");
    for entry in entries.iter().rev() {
        let id = quote(&entry.id);
        let take = format!("set default={id}");
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

/// Returns the commands of an entry: counted, where it is, with `commands` to load its kernel, or else `instead`, those of
/// the first entry that is not counted, where there is one.
pub(super) fn commands_of(entry: &Counted, commands: &[String], instead: Option<&[String]>) -> String {
    let mut text = String::new();
    if !matches!(entry.counting, Counting::Left(_)) {
        for command in commands {
            put!(text, "\t{command}");
        }
        return text;
    }
    let n = entry.n;
    put!(text, "\tset atomos_loaded=0");
    put!(text, "\tset atomos_counted=1");
    put!(text, "\tif [ -n \"${{atomos_next_{n}}}\" ]; then");
    put!(text, "\t\tset {LEFT}{n}=\"${{atomos_next_{n}}}\"");
    put!(
        text,
        "\t\tif save_env --file \"${{prefix}}/{ENV}\" {LEFT}{n}; then set atomos_counted=1; else set atomos_counted=0; fi"
    );
    put!(text, "\tfi");
    let Some(instead) = instead else {
        // Nothing is better than this.
        for command in commands {
            put!(text, "\t{command}");
        }
        return text;
    };
    put!(text, "\tif [ \"${{atomos_counted}}\" = 1 ]; then");
    for (depth, command) in commands.iter().enumerate() {
        put!(text, "{}if", "\t".repeat(depth + 2));
        put!(text, "\t{command}");
        put!(text, "{}then", "\t".repeat(depth + 2));
    }
    put!(text, "{}set atomos_loaded=1", "\t".repeat(commands.len() + 2));
    for depth in (0..commands.len()).rev() {
        put!(text, "{}fi", "\t".repeat(depth + 2));
    }
    put!(text, "\telse");
    put!(
        text,
        "\t\techo 'This version is on trial, and GRUB cannot save how often it was tried.'"
    );
    put!(text, "\tfi");
    put!(text, "\tif [ \"${{atomos_loaded}}\" = 0 ]; then");
    put!(text, "\t\techo 'The version before is taken instead.'");
    for command in instead {
        put!(text, "\t\t{command}");
    }
    put!(text, "\tfi");
    text
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
