//! Which deployment to boot.
//!
//! The one that was asked for, if it is finished. If it is gone, or was never finished, booting something that
//! worked is better than a machine that nobody can reach: the newest finished deployment of the same stateroot
//! that has modules for the kernel which is running and is not known to be bad. If there is none, the boot fails, so
//! that the loader's count of tries goes down and it takes its previous entry, which brings the right kernel.

use std::fmt;

use crate::cmdline::DeploymentName;

/// What was seen of one deployment on disk.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Candidate {
    pub(crate) name: DeploymentName,
    /// The directory and its completion marker are both there.
    pub(crate) finished: bool,
    /// Whether its root is there.
    pub(crate) root: RootState,
    /// What is asked for it can be had, as far as is known.
    pub(crate) is_possible: bool,
    /// It has `usr/lib/modules/<release>` of the kernel that is running.
    pub(crate) fits_kernel: bool,
    /// It ran out of tries, and has the marker that says so.
    pub(crate) bad: bool,
    /// When its completion marker was written, in nanoseconds since the epoch.
    pub(crate) finished_at: i128,
}

/// What was seen of a deployment's root.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum RootState {
    /// Files, or an image that the kernel takes.
    There,
    /// It would be an image alone, and there is none.
    ImageMissing,
    /// It is an image alone, and that cannot be mounted; why.
    ImageRefused(String),
    /// It must be verified, and is not; why.
    Unverified(String),
}

/// The deployment that will be booted.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Choice {
    /// The one that was asked for.
    Requested(DeploymentName),
    /// Another one, because of what is wrong with the one that was asked for.
    Fallback { name: DeploymentName, because: Unusable },
    /// There is nothing to boot.
    Nothing { because: Unusable },
}

/// Why the deployment that was asked for cannot be booted.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Unusable {
    Missing,
    Unfinished,
    ImageMissing,
    ImageRefused(String),
    Unverified(String),
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unusable::Missing => f.write_str("is missing"),
            Unusable::Unfinished => f.write_str("was never finished"),
            Unusable::ImageMissing => f.write_str("has lost its image, and has nothing else"),
            Unusable::Unverified(why) => write!(f, "is not verified ({why})"),
            Unusable::ImageRefused(why) => write!(f, "has nothing but an image ({why})"),
        }
    }
}

/// Chooses among what is on disk. Candidates may come in any order.
///
/// The deployment that was asked for is taken whatever modules it has: its entry named the kernel too, and a
/// kernel without modules is a legitimate thing to boot. It is taken even when it is known to be bad: the loader, or a
/// person at its menu, has had a reason.
pub(crate) fn choose(requested: &DeploymentName, candidates: &[Candidate]) -> Choice {
    let because = match candidates.iter().find(|candidate| candidate.name == *requested) {
        Some(candidate) if candidate.finished => match &candidate.root {
            RootState::There => return Choice::Requested(requested.clone()),
            RootState::ImageMissing => Unusable::ImageMissing,
            RootState::ImageRefused(why) => Unusable::ImageRefused(why.clone()),
            RootState::Unverified(why) => Unusable::Unverified(why.clone()),
        },
        Some(_) => Unusable::Unfinished,
        None => Unusable::Missing,
    };
    // The serial and the name only make the choice the same every time when two markers carry one time.
    let newest = candidates
        .iter()
        .filter(|candidate| candidate.finished && candidate.root == RootState::There)
        .filter(|candidate| candidate.is_possible && candidate.fits_kernel && !candidate.bad)
        .max_by_key(|candidate| {
            (
                candidate.finished_at,
                candidate.name.serial(),
                candidate.name.to_string(),
            )
        });
    match newest {
        Some(candidate) => Choice::Fallback {
            name: candidate.name.clone(),
            because,
        },
        None => Choice::Nothing { because },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(digit: char, serial: u32) -> DeploymentName {
        DeploymentName::parse(&format!("{}.{serial}", digit.to_string().repeat(64))).unwrap()
    }

    fn candidate(digit: char, finished_at: i128) -> Candidate {
        Candidate {
            name: name(digit, 0),
            finished: true,
            root: RootState::There,
            is_possible: true,
            fits_kernel: true,
            bad: false,
            finished_at,
        }
    }

    #[test]
    fn the_requested_one_is_taken_whatever_else_there_is() {
        let all = [candidate('a', 1), candidate('b', 9)];
        assert_eq!(choose(&name('a', 0), &all), Choice::Requested(name('a', 0)));
    }

    #[test]
    fn the_requested_one_needs_no_modules() {
        let mut only = candidate('a', 1);
        only.fits_kernel = false;
        assert_eq!(choose(&name('a', 0), &[only]), Choice::Requested(name('a', 0)));
    }

    #[test]
    fn a_missing_one_gives_way_to_the_newest_finished() {
        let all = [candidate('b', 5), candidate('c', 7), candidate('d', 6)];
        let expected = Choice::Fallback {
            name: name('c', 0),
            because: Unusable::Missing,
        };
        assert_eq!(choose(&name('a', 0), &all), expected);
    }

    #[test]
    fn an_unfinished_one_is_never_booted() {
        let mut requested = candidate('a', 9);
        requested.finished = false;
        let mut other = candidate('b', 8);
        other.finished = false;
        let all = [requested, other, candidate('c', 1)];
        let expected = Choice::Fallback {
            name: name('c', 0),
            because: Unusable::Unfinished,
        };
        assert_eq!(choose(&name('a', 0), &all), expected);
    }

    #[test]
    fn another_kernel_s_deployment_is_no_fallback() {
        let mut other = candidate('b', 8);
        other.fits_kernel = false;
        assert_eq!(
            choose(&name('a', 0), &[other]),
            Choice::Nothing {
                because: Unusable::Missing
            }
        );
        assert_eq!(
            choose(&name('a', 0), &[]),
            Choice::Nothing {
                because: Unusable::Missing
            }
        );
    }

    #[test]
    fn what_is_known_to_be_bad_is_booted_only_when_it_is_asked_for() {
        let mut bad = candidate('b', 9);
        bad.bad = true;
        let all = [bad.clone(), candidate('c', 1)];
        let expected = Choice::Fallback {
            name: name('c', 0),
            because: Unusable::Missing,
        };
        assert_eq!(choose(&name('a', 0), &all), expected);
        let because = Unusable::Missing;
        assert_eq!(
            choose(&name('a', 0), std::slice::from_ref(&bad)),
            Choice::Nothing { because }
        );
        assert_eq!(choose(&name('b', 0), &[bad]), Choice::Requested(name('b', 0)));
    }

    #[test]
    fn an_image_that_is_lost_or_refused_or_not_verified_gives_way_and_is_no_substitute() {
        let states = [
            (RootState::ImageMissing, Unusable::ImageMissing),
            (
                RootState::ImageRefused("why".to_owned()),
                Unusable::ImageRefused("why".to_owned()),
            ),
            (
                RootState::Unverified("why".to_owned()),
                Unusable::Unverified("why".to_owned()),
            ),
        ];
        for (state, because) in states {
            let mut broken = candidate('b', 9);
            broken.root = state;
            let all = [broken, candidate('c', 1)];
            let expected = Choice::Fallback {
                name: name('c', 0),
                because,
            };
            assert_eq!(choose(&name('b', 0), &all), expected);
            let expected = Choice::Fallback {
                name: name('c', 0),
                because: Unusable::Missing,
            };
            assert_eq!(choose(&name('a', 0), &all), expected);
        }
    }

    #[test]
    fn what_would_not_be_as_it_is_asked_for_is_no_substitute() {
        let mut other = candidate('b', 9);
        other.is_possible = false;
        let all = [other, candidate('c', 1)];
        let expected = Choice::Fallback {
            name: name('c', 0),
            because: Unusable::Missing,
        };
        assert_eq!(choose(&name('a', 0), &all), expected);
        assert_eq!(choose(&name('b', 0), &all), Choice::Requested(name('b', 0)));
    }

    #[test]
    fn the_choice_does_not_depend_on_the_order_of_the_directory() {
        let mut all = vec![candidate('b', 5), candidate('c', 5), candidate('d', 5)];
        let first = choose(&name('a', 0), &all);
        all.reverse();
        assert_eq!(choose(&name('a', 0), &all), first);
    }
}
