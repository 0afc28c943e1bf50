//! What is writable by nature moves into `/var`, with a link in its place.

use super::super::SourceKind;
use super::OsTreeError;
use super::report::OsTreeWarning;
use super::shaper::{Shaper, Taken, join, lossy};

struct Place {
    /// Where it was.
    path: &'static str,
    /// Its name in `/var`.
    name: &'static str,
    /// What the link says.
    target: &'static str,
    /// The mode of one that is missing.
    mode: u32,
    /// Whether files in it are somebody's software, which upgrades will not reach there.
    software: bool,
}

const fn place(path: &'static str, name: &'static str, target: &'static str) -> Place {
    Place {
        path,
        name,
        target,
        mode: 0o755,
        software: false,
    }
}

const PLACES: [Place; 7] = [
    place("home", "home", "var/home"),
    Place {
        mode: 0o700,
        ..place("root", "roothome", "var/roothome")
    },
    Place {
        software: true,
        ..place("opt", "opt", "var/opt")
    },
    place("srv", "srv", "var/srv"),
    Place {
        software: true,
        ..place("usr/local", "usrlocal", "../var/usrlocal")
    },
    place("mnt", "mnt", "var/mnt"),
    place("media", "media", "var/media"),
];

pub(super) fn arrange(shaper: &mut Shaper<'_>) -> Result<(), OsTreeError> {
    let var = shaper.make_dir("var", 0o755)?;
    for place in &PLACES {
        let target = format!("var/{}", place.name);
        match shaper.tree.find(place.path) {
            // Made by somebody who knew where it should lead.
            Some(node) if matches!(shaper.tree.node(node).kind, SourceKind::Symlink(_)) => continue,
            Some(node) if shaper.is_dir(node) => {
                shaper.note_moved(node, place.path, &target);
                let (files, _) = shaper.size(node);
                if place.software && files > 0 {
                    shaper.warn(OsTreeWarning::LocalContent {
                        path: place.path.to_owned(),
                        files,
                    });
                }
                adjust_links(shaper, node, place.path, &target);
                let node = shaper.take(place.path, place.name).expect("it was found");
                shaper.put(node, var, place.path.as_bytes(), target.as_bytes(), Taken::Fail)?;
            }
            Some(_) => return Err(shaper.in_the_way(place.path, "directory")),
            None => {
                shaper.make_dir(&target, place.mode)?;
            }
        }
        shaper.make_link(place.path, place.target);
    }
    Ok(())
}

/// Rewrites relative links in the directory `top` that lead out of it: `..` of a directory is where it really lies,
/// whatever link one came by. `from` and `to` are where programs on the running system would have found it and will.
///
/// Only leading `..` are looked at. They are climbed from real directories, so that counting them is exact.
pub(super) fn adjust_links(shaper: &mut Shaper<'_>, top: u32, from: &str, to: &str) {
    let mut stack = vec![(top, Vec::<u8>::new())];
    while let Some((dir, below)) = stack.pop() {
        for (name, child) in shaper.entries(dir) {
            match &shaper.tree.node(child).kind {
                SourceKind::Dir { .. } => stack.push((child, join(&below, &name))),
                SourceKind::Symlink(target) => {
                    if let Some(adjusted) = adjusted(target, from, to, &below) {
                        let path = join(&join(to.as_bytes(), &below), &name);
                        shaper.note_linked(&lossy(&path), &adjusted);
                        shaper.tree.node_mut(child).kind = SourceKind::Symlink(adjusted.into());
                    }
                }
                _ => {}
            }
        }
    }
}

/// Returns what a link in `from/below` has to say when it lies in `to/below`, if that is something else.
pub(super) fn adjusted(target: &[u8], from: &str, to: &str, below: &[u8]) -> Option<Vec<u8>> {
    let parts = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|byte| *byte == b'/')
            .filter(|part| !part.is_empty() && *part != b".")
            .map(<[u8]>::to_vec)
            .collect()
    };
    if target.first() == Some(&b'/') {
        return None;
    }
    let wanted = parts(target);
    let climbs = wanted.iter().take_while(|part| *part == b"..").count();
    if climbs <= parts(below).len() {
        return None;
    }
    let mut old_place = parts(from.as_bytes());
    old_place.extend(parts(below));
    // More of them than there are directories stay at the root.
    old_place.truncate(old_place.len().saturating_sub(climbs));
    let depth = parts(to.as_bytes()).len() + parts(below).len();
    let mut new = vec![b"..".to_vec(); depth];
    new.extend(old_place);
    new.extend(wanted.into_iter().skip(climbs));
    Some(new.join(&b'/'))
}
