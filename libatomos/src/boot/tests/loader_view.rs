//! A `/boot` of each kind as GRUB reads it: from the disk, without the kernel and without a journal's replay.
//!
//! The image is read by `grub-fstest`, which is GRUB's own code, while the file system is mounted: what it sees is what a
//! power cut at this moment leaves to the loader, for what the kernel has written to the loop device is in the image.

use std::process::Command;

use super::*;
use crate::boot::bls::BlsEntry;
use crate::boot::name::EntryName;
use crate::fs::loop_mount::LoopMount;

/// Reads an image as GRUB would.
struct GrubView<'a>(&'a LoopMount);

impl GrubView<'_> {
    /// Runs a command of GRUB's; `None` where it fails, as for a file that is not there.
    fn run(&self, command: &str, path: &str) -> Option<Vec<u8>> {
        let output = Command::new("grub-fstest")
            .arg(self.0.image())
            .args([command, &format!("(loop0)/{path}")])
            .output()
            .unwrap();
        output.status.success().then_some(output.stdout)
    }

    /// Returns the number of the entry that GRUB takes, once it has read the kernel of each that it offers.
    fn booted_number(&self, kernels: &[(&str, &DesiredEntry)]) -> Option<u64> {
        let listed = self.run("ls", "loader/entries/").unwrap_or_default();
        let listed = String::from_utf8(listed).unwrap();
        let names = listed.split_whitespace().filter(|name| name.ends_with(".conf"));
        let mut newest = None;
        for name in names {
            let entry = self.run("cat", &format!("loader/entries/{name}")).unwrap();
            let entry = BlsEntry::parse(&entry).unwrap_or_else(|error| panic!("{name}: {error}"));
            let n = name.parse::<EntryName>().unwrap().n;
            let linux = entry.linux().unwrap().trim_start_matches('/');
            let (kernel, _) = kernels.iter().find(|(_, desired)| desired.n == n).unwrap();
            let read = self.run("cat", linux);
            assert!(
                read.as_deref() == Some(kernel.as_bytes()),
                "{name} is offered, and its kernel is not whole"
            );
            newest = newest.max(Some(n));
        }
        newest
    }
}

#[test]
fn grub_finds_something_to_boot_on_each_kind_wherever_the_switch_is_interrupted() {
    if Command::new("grub-fstest").arg("--version").output().is_err() {
        return println!("skipped: there is no grub-fstest");
    }
    for kind in ["ext4", "xfs", "btrfs"] {
        let Some(mount) = LoopMount::smallest(kind) else {
            continue;
        };
        let machine = own_file_system::machine_on(&mount);
        let grub = GrubView(&mount);
        // Larger than what the kernel writes at once, so that a missing sync shows.
        let kernel = |n: u64| format!("{n} ").repeat(256 << 10);
        let mut n = 1;
        let mut next = || {
            let kernels = [kernel(n), kernel(n + 1)];
            let desired = [
                machine.deployment(n, &kernels[0]),
                machine.deployment(n + 1, &kernels[1]),
            ];
            n += 2;
            (kernels, desired)
        };
        let ([old_kernel, new_kernel], [old, new]) = next();
        machine.recover(std::slice::from_ref(&old));
        let (points, outcome) = failpoint::trace(|| machine.reconcile(std::slice::from_ref(&new)));
        assert_eq!(outcome.unwrap().flushed, FlushMethod::FrozenAndThawed, "{kind}");
        let both = [(&*old_kernel, &old), (&*new_kernel, &new)];
        assert_eq!(
            grub.booted_number(&both),
            Some(new.n),
            "{kind}: what is done is on the disk"
        );
        assert!(points.len() > 10, "{points:?}");
        for (index, point) in points.iter().enumerate() {
            let ([old_kernel, new_kernel], [old, new]) = next();
            machine.recover(std::slice::from_ref(&old));
            let result = failpoint::stop_at(index, || machine.reconcile(std::slice::from_ref(&new)));
            result.unwrap_err();
            let both = [(&*old_kernel, &old), (&*new_kernel, &new)];
            let found = grub.booted_number(&both);
            assert!(
                found == Some(old.n) || found == Some(new.n),
                "{kind}, at {point}: {found:?}"
            );
        }
    }
}
