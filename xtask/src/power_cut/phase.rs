//! Which part of an operation a cut falls into.

use super::log::Log;

/// The parts that are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Objects are staged, named and made lasting.
    Objects,
    /// The file of refs is replaced.
    Refs,
    /// A deployment's tree is checked out.
    Tree,
    /// `/etc` is merged, and the deployment completed.
    Etc,
    /// `deployments.json` is replaced.
    Truth,
    /// Kernel files are copied to `/boot`.
    Kernel,
    /// The entry that the loader takes is written.
    Switch,
    /// What is old goes.
    Removal,
    /// An update is staged, to be finished at shutdown.
    Staging,
    /// A staged update is finished.
    Finalize,
    /// A boot is marked good.
    MarkGood,
    /// The command has ended.
    After,
}

impl Phase {
    /// Every phase, in order.
    pub const ALL: [Self; 12] = [
        Self::Objects,
        Self::Refs,
        Self::Tree,
        Self::Etc,
        Self::Truth,
        Self::Kernel,
        Self::Switch,
        Self::Removal,
        Self::Staging,
        Self::Finalize,
        Self::MarkGood,
        Self::After,
    ];

    /// Returns its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Objects => "objects",
            Self::Refs => "ref move",
            Self::Tree => "checkout",
            Self::Etc => "/etc merge",
            Self::Truth => "deployments.json",
            Self::Kernel => "kernel copy",
            Self::Switch => "switch",
            Self::Removal => "removal",
            Self::Staging => "staging",
            Self::Finalize => "finalize",
            Self::MarkGood => "mark good",
            Self::After => "after a command",
        }
    }

    /// Returns the phase of what comes right after the first `at` events.
    #[must_use]
    pub fn at(log: &Log, at: usize) -> Self {
        match log.last_mark(at, Some) {
            Some(mark) if mark.starts_with("end ") => return Self::After,
            _ => {}
        }
        // These are counted as a whole.
        match log.last_mark(at, |mark| mark.strip_prefix("begin ")) {
            Some("finalize") => return Self::Finalize,
            Some("mark good") => return Self::MarkGood,
            _ => {}
        }
        let mut switched = false;
        for mark in log.events[..at].iter().rev().filter_map(|event| match event {
            super::log::Event::Mark(text) => Some(text.as_str()),
            _ => None,
        }) {
            if let Some(step) = mark.strip_prefix("begin ") {
                return Self::of_step(step);
            }
            let Some(point) = mark.strip_prefix("point ") else {
                continue;
            };
            let phase = match point {
                "store.staged" | "store.synced" | "store.renamed" | "store.durable" => Self::Objects,
                "refs.write" | "refs.sync" => Self::Refs,
                "deploy.rooted" => Self::Tree,
                "deploy.checked-out" | "deploy.etc" | "deploy.synced" => Self::Etc,
                point if point.starts_with("stage") => Self::Staging,
                "deploy.complete" | "sysroot.state.write" | "sysroot.state.written" => Self::Truth,
                "sysroot.state.durable" => Self::Kernel,
                "boot.reconcile.switched" => Self::Removal,
                "prune.kind" => Self::Removal,
                "boot.reconcile.kernels-synced" => Self::Switch,
                point if point.starts_with("boot.kernel.") || point == "boot.reconcile.kernels" => {
                    Self::Kernel
                }
                point if point.starts_with("boot.reconcile.") => Self::Removal,
                // A flush follows the switch, and the removal of entries.
                point if point.starts_with("boot.flush.") => {
                    switched = true;
                    continue;
                }
                point if point.starts_with("boot.") => Self::Switch,
                _ => continue,
            };
            return if switched && phase == Self::Kernel {
                Self::Switch
            } else {
                phase
            };
        }
        Self::Objects
    }

    fn of_step(step: &str) -> Self {
        match step {
            "upgrade" | "upgrade again" | "stage" => Self::Tree,
            "alias" => Self::Refs,
            "rollback" | "kargs" => Self::Truth,
            "undeploy" | "cleanup" | "prune" => Self::Removal,
            _ => Self::Objects,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::power_cut::log::Event;

    #[test]
    fn marks_tell_the_phase() {
        let phases = |marks: &[&str]| {
            let log = Log {
                events: marks.iter().map(|mark| Event::Mark((*mark).to_owned())).collect(),
            };
            Phase::at(&log, marks.len())
        };
        assert_eq!(phases(&["begin commit"]), Phase::Objects);
        assert_eq!(phases(&["begin upgrade", "syncfs repo/roots.rs:57"]), Phase::Tree);
        assert_eq!(phases(&["begin x", "point refs.write"]), Phase::Refs);
        let switch = [
            "begin x",
            "point boot.reconcile.kernels-synced",
            "point boot.flush.begin",
        ];
        assert_eq!(phases(&switch), Phase::Switch);
        assert_eq!(
            phases(&["point boot.reconcile.switched", "point boot.flush.synced"]),
            Phase::Removal
        );
        assert_eq!(phases(&["begin x", "point refs.write", "end x"]), Phase::After);
    }
}
