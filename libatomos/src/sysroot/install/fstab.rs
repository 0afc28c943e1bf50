//! The machine's lines of `/etc/fstab`.
//!
//! The root needs none: the initramfs mounts it by `root=`, and the rest of a deployment from there. What does need one
//! is a `/boot` or an EFI system partition of its own. A line of `/etc/fstab` is what people look for and edit; a
//! generator would find the same by guessing. The file is the deployment's, so the line is kept by every merge.

use crate::fs::Dir;

use super::probe::{Layout, MountedFs};
use super::{SysrootError, refuse};

/// Bytes in an `/etc/fstab`.
const MAX_FSTAB: usize = 1024 * 1024;

/// Returns the lines for what is mounted below the target.
pub(super) fn lines(layout: &Layout, warnings: &mut Vec<String>) -> Vec<String> {
    let esp = layout.esp.as_ref().and_then(|esp| esp.mount.as_ref());
    // Its own line only where it is not /boot itself.
    let esp = esp.filter(|esp| layout.boot.as_ref().is_none_or(|boot| boot.path != esp.path));
    let mut lines = Vec::new();
    for fs in layout.boot.iter().chain(esp) {
        match &fs.uuid {
            Some(uuid) => lines.push(line(fs, uuid)),
            None => warnings.push(format!(
                "/{} has no UUID that can be read ({} of type {}): add its line to /etc/fstab of the deployment",
                fs.path.display(),
                fs.source,
                fs.kind
            )),
        }
    }
    lines
}

fn line(fs: &MountedFs, uuid: &str) -> String {
    // Read-only: atomos makes it writable for itself alone while it works.
    // Without it the machine still boots, and `atomos status` says what is wrong: `nofail`.
    let mut options = "ro,nosuid,nodev,noexec,nofail".to_owned();
    if fs.is_fat() {
        options.push_str(",umask=0077");
    }
    // XFS and btrfs have nothing to check before they are mounted.
    let pass = if matches!(fs.kind.as_str(), "xfs" | "btrfs") {
        0
    } else {
        2
    };
    format!(
        "UUID={uuid} /{} {} {options} 0 {pass}",
        fs.path.display(),
        fs.kind
    )
}

/// Adds lines to the `/etc/fstab` of a deployment's `tree`, but those whose mount point has a line already, or is not
/// there: what cannot be mounted would be a failure at every boot. Returns what a person should know of those. A line that differs in
/// the file system alone is an earlier installation's, and is replaced.
pub(super) fn add(tree: &Dir, lines: &[String]) -> Result<Vec<String>, SysrootError> {
    let etc = tree.open_dir("etc")?;
    let bytes = etc.read_optional("fstab", MAX_FSTAB)?.unwrap_or_default();
    let Ok(mut text) = String::from_utf8(bytes) else {
        return Err(refuse(etc.path(), "its fstab is not UTF-8"));
    };
    let (mut changed, mut notes) = (false, Vec::new());
    let words = |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
    for line in lines {
        let mount_point = |line: &str| words(line).into_iter().nth(1);
        let theirs =
            |other: &&str| !other.trim_start().starts_with('#') && mount_point(other) == mount_point(line);
        // What is beneath /boot lies on the machine's own, and not in the tree.
        let place = mount_point(line).unwrap_or_default();
        let missing = !place.starts_with("/boot/") && !tree.exists(place.trim_start_matches('/'))?;
        if missing {
            notes.push(format!(
                "the tree has no directory {place}, so /etc/fstab of the deployment gets no line for it: {line}"
            ));
            continue;
        }
        if let Some(other) = text.lines().find(theirs).map(str::to_owned) {
            let (old, new) = (words(&other), words(line));
            if old == new {
                continue;
            }
            if old[1..] == new[1..] && old[0].starts_with("UUID=") {
                let replace = |one: &str| {
                    if one == other {
                        line.clone()
                    } else {
                        one.to_owned()
                    }
                };
                text = text.lines().map(|one| replace(one) + "\n").collect();
                changed = true;
            } else {
                notes.push(format!(
                    "/etc/fstab of the deployment has a line for {place} already, which stays: {other}; what is mounted there now would have: {line}"
                ));
            }
            continue;
        }
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        text.push_str(line);
        text.push('\n');
        changed = true;
    }
    if changed {
        etc.write_atomic("fstab", text.as_bytes(), 0o644)?;
    }
    Ok(notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fs(path: &str, kind: &str) -> MountedFs {
        MountedFs {
            path: path.into(),
            kind: kind.to_owned(),
            source: "/dev/x".to_owned(),
            subtree: "/".to_owned(),
            uuid: Some("U".to_owned()),
        }
    }

    #[test]
    fn a_line_says_how_each_kind_is_mounted() {
        for (fs, expected) in [
            (
                fs("boot", "ext4"),
                "UUID=U /boot ext4 ro,nosuid,nodev,noexec,nofail 0 2",
            ),
            (
                fs("boot", "xfs"),
                "UUID=U /boot xfs ro,nosuid,nodev,noexec,nofail 0 0",
            ),
            (
                fs("boot", "btrfs"),
                "UUID=U /boot btrfs ro,nosuid,nodev,noexec,nofail 0 0",
            ),
            (
                fs("boot/efi", "vfat"),
                "UUID=U /boot/efi vfat ro,nosuid,nodev,noexec,nofail,umask=0077 0 2",
            ),
        ] {
            assert_eq!(line(&fs, "U"), expected);
        }
    }

    #[test]
    fn what_a_person_wrote_stays() {
        let scratch = tempfile::tempdir().unwrap();
        let tree = Dir::open_ambient(scratch.path()).unwrap();
        for dir in ["etc", "boot", "efi"] {
            tree.create_dir(dir, 0o755).unwrap();
        }
        let etc = tree.open_dir("etc").unwrap();
        let ours = ["A /boot ext4 ro 0 2".to_owned(), "B /efi vfat ro 0 2".to_owned()];
        add(&tree, &ours).unwrap();
        let read = || String::from_utf8(etc.read("fstab", 1000).unwrap()).unwrap();
        assert_eq!(read(), "A /boot ext4 ro 0 2\nB /efi vfat ro 0 2\n");
        assert_eq!(add(&tree, &ours).unwrap(), [""; 0]);
        assert_eq!(read().lines().count(), 2, "once is enough");
        // A file system that was made anew.
        etc.write_atomic(
            "fstab",
            b"# UUID=OLD /boot ext4 ro 0 2\nUUID=OLD /boot ext4 ro 0 2\nB /efi vfat ro 0 2",
            0o644,
        )
        .unwrap();
        assert_eq!(add(&tree, &ours).unwrap(), [""; 0]);
        assert_eq!(
            read(),
            "# UUID=OLD /boot ext4 ro 0 2\nA /boot ext4 ro 0 2\nB /efi vfat ro 0 2\n"
        );
        etc.write_atomic("fstab", b"# x /boot y\nMINE\t/boot  ext4 rw 0 0", 0o644)
            .unwrap();
        let notes = add(&tree, &ours).unwrap();
        assert!(
            notes.len() == 1 && notes[0].contains("MINE\t/boot  ext4 rw 0 0"),
            "{notes:?}"
        );
        tree.remove_dir("efi").unwrap();
        let notes = add(
            &tree,
            &[
                "C /boot/efi vfat ro 0 2".to_owned(),
                "D /efi/x vfat ro 0 2".to_owned(),
            ],
        )
        .unwrap();
        assert!(
            notes.len() == 1 && notes[0].contains("no directory /efi/x"),
            "{notes:?}"
        );
        assert_eq!(
            read().lines().last(),
            Some("C /boot/efi vfat ro 0 2"),
            "there is no /efi"
        );
        assert_eq!(
            read(),
            "# x /boot y\nMINE\t/boot  ext4 rw 0 0\nB /efi vfat ro 0 2\nC /boot/efi vfat ro 0 2\n"
        );
    }
}
