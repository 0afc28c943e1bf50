//! Each way in which a file may change without its size and modification time telling, and the file of the cache itself.
#![allow(clippy::disallowed_methods)] // A test arranges by path what the library then sees by descriptor.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;

use super::record::{Record, XattrTable, decode};
use super::*;
use crate::cancel::Cancel;
use crate::commit::{CommitOptions, CommitReport, commit};
use crate::progress::NoProgress;
use crate::repo::RepoMode;

struct Scratch {
    dir: tempfile::TempDir,
    repo: Repo,
}

impl Scratch {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let repo = Repo::init(&dir.path().join("repo"), RepoMode::BareUser).unwrap();
        fs::create_dir(dir.path().join("tree")).unwrap();
        Self { dir, repo }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join("tree").join(name)
    }

    fn commit(&self) -> CommitReport {
        self.commit_with(&CommitOptions::default())
    }

    fn commit_with(&self, options: &CommitOptions) -> CommitReport {
        let source = Dir::open_ambient(self.dir.path().join("tree")).unwrap();
        commit(&self.repo, source, options, &NoProgress, &Cancel::new()).unwrap()
    }

    /// What a commit says that distrusts the cache is the truth.
    fn check(&self) {
        let trusting = self.commit();
        let options = CommitOptions {
            no_cache: true,
            ..CommitOptions::default()
        };
        assert_eq!(trusting.root, self.commit_with(&options).root);
    }

    fn load(&self) -> StatCache {
        StatCache::load(
            &self.repo,
            &Dir::open_ambient(self.dir.path().join("tree")).unwrap(),
        )
        .unwrap()
    }

    fn knows(&self, name: &str) -> bool {
        let stat = Stat::from(rustix::fs::lstat(self.path(name)).unwrap());
        self.load().get(&Stamp::of(&stat)).is_some()
    }
}

/// Until a write leaves another time than one right before this did.
fn wait_for_a_tick(beside: &Path) {
    let probe = beside.with_file_name("probe");
    fs::write(&probe, "").unwrap();
    let before = fs::metadata(&probe).unwrap();
    loop {
        fs::write(&probe, "x").unwrap();
        let now = fs::metadata(&probe).unwrap();
        let coarse = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
        if (now.ctime(), now.ctime_nsec()) != (before.ctime(), before.ctime_nsec())
            && (before.ctime(), before.ctime_nsec()) < (coarse.tv_sec, coarse.tv_nsec)
        {
            break;
        }
    }
    fs::remove_file(probe).unwrap();
}

/// Writes a file and commits it when its times are in the past. `false` where this machine grants no leases.
fn remembered(scratch: &Scratch, name: &str, bytes: &str) -> bool {
    let path = scratch.path(name);
    fs::write(&path, bytes).unwrap();
    wait_for_a_tick(&scratch.dir.path().join("tree"));
    scratch.commit();
    let known = scratch.knows(name);
    if !known {
        assert!(!nobody_writes(&fs::File::open(&path).unwrap()));
        eprintln!("skipped: this file system grants no leases, so nothing is remembered");
    }
    known
}

fn set_times(path: &Path, time: SystemTime) {
    fs::File::options()
        .write(true)
        .open(path)
        .unwrap()
        .set_modified(time)
        .unwrap();
}

#[test]
fn a_file_that_did_not_change_is_not_read_again() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let first = scratch.commit();
    // What the store has under the file's digest is what is believed; the file itself is not opened: it could not be.
    fs::set_permissions(scratch.path("file"), PermissionsExt::from_mode(0o000)).unwrap();
    fs::set_permissions(scratch.path("file"), PermissionsExt::from_mode(0o644)).unwrap();
    assert!(!scratch.knows("file"), "a change of the mode is a change");
    assert_eq!(scratch.commit().root, first.root);
}

#[test]
fn the_same_size_and_time_do_not_hide_a_change() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let time = fs::metadata(scratch.path("file")).unwrap().modified().unwrap();
    fs::write(scratch.path("file"), "two").unwrap();
    set_times(&scratch.path("file"), time);
    assert_eq!(
        fs::metadata(scratch.path("file")).unwrap().modified().unwrap(),
        time
    );
    assert!(!scratch.knows("file"));
    scratch.check();
}

#[test]
fn a_file_that_takes_anothers_place_is_another() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let time = fs::metadata(scratch.path("file")).unwrap().modified().unwrap();
    fs::write(scratch.path("new"), "two").unwrap();
    set_times(&scratch.path("new"), time);
    fs::rename(scratch.path("new"), scratch.path("file")).unwrap();
    assert!(!scratch.knows("file"));
    scratch.check();
}

#[test]
fn an_inode_number_that_is_used_again_is_another_file() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let old = fs::metadata(scratch.path("file")).unwrap();
    let mut reused = false;
    for _ in 0..64 {
        fs::remove_file(scratch.path("file")).unwrap();
        fs::write(scratch.path("file"), "two").unwrap();
        set_times(&scratch.path("file"), old.modified().unwrap());
        reused |= fs::metadata(scratch.path("file")).unwrap().ino() == old.ino();
        assert!(!scratch.knows("file"));
    }
    if !reused {
        eprintln!("this file system has not used the inode again, so only the rest was seen");
    }
    scratch.check();
}

#[test]
fn what_was_written_in_this_tick_is_not_remembered() {
    let scratch = Scratch::new();
    let stamp = Stamp {
        ino: 1,
        size: 1,
        mtime: 100,
        ctime: 100,
        mtime_nsec: 5,
        ctime_nsec: 5,
    };
    assert!(!stamp.is_before((100, 5)) && !stamp.is_before((99, 9)));
    assert!(stamp.is_before((100, 6)));
    // A time without nanoseconds may be a whole second's, or two's.
    let coarse = Stamp {
        ctime_nsec: 0,
        ..stamp
    };
    assert!(!coarse.is_before((102, 9)) && coarse.is_before((103, 0)));
    let touched = Stamp {
        mtime: 500,
        mtime_nsec: 0,
        ..stamp
    };
    assert!(
        !touched.is_before((200, 0)),
        "a time in the future is no time to rely on"
    );
    // Over and over: write and commit as fast as can be, and compare with what a distrusting commit says.
    for round in 0..40 {
        fs::write(scratch.path("file"), format!("{:03}", round)).unwrap();
        scratch.commit();
        fs::write(scratch.path("file"), format!("{:03}", round + 500)).unwrap();
        scratch.check();
    }
}

#[test]
fn a_file_that_somebody_has_open_for_writing_is_not_remembered() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    let writer = fs::File::create(&path).unwrap();
    wait_for_a_tick(&scratch.dir.path().join("tree"));
    scratch.commit();
    assert!(!scratch.knows("file"));
    drop(writer);
    scratch.commit();
    assert_eq!(
        scratch.knows("file"),
        nobody_writes(&fs::File::open(&path).unwrap())
    );
}

#[test]
fn a_mapping_that_is_written_through_hides_nothing() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    fs::write(&path, vec![b'a'; 4096]).unwrap();
    let mut map = crate::fs::SharedMap::of(&path, 4096);
    map.write(0, b'b');
    wait_for_a_tick(&scratch.dir.path().join("tree"));
    let first = scratch.commit();
    // While the page is still dirty, this changes no time at all.
    map.write(0, b'c');
    assert_ne!(scratch.commit().root, first.root);
    scratch.check();
    drop(map);
    scratch.check();
    scratch.check();
}

#[test]
fn extended_attributes_are_remembered_with_the_file() {
    let scratch = Scratch::new();
    let path = scratch.path("file");
    fs::write(&path, "one").unwrap();
    let set = |value: &[u8]| {
        rustix::fs::setxattr(&path, "user.note", value, rustix::fs::XattrFlags::empty()).is_ok()
    };
    if !set(b"1") {
        return eprintln!("skipped: this file system keeps no attributes");
    }
    wait_for_a_tick(&scratch.dir.path().join("tree"));
    let first = scratch.commit();
    assert_eq!(scratch.commit().root, first.root);
    assert!(set(b"2"));
    assert!(!scratch.knows("file"));
    assert_ne!(scratch.commit().root, first.root);
    scratch.check();
}

#[test]
fn what_the_store_lost_is_read_again() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let blob = crate::digest::Digest::of(b"one").to_hex();
    let object = scratch
        .dir
        .path()
        .join("repo/objects")
        .join(&blob[..2])
        .join(&blob[2..]);
    fs::remove_file(&object).unwrap();
    scratch.commit();
    assert!(object.exists());
}

#[test]
fn what_was_lost_is_stored_anew_by_a_commit_that_finds_nothing_changed() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let options = CommitOptions {
        reference: Some("main".parse().unwrap()),
        skip_if_unchanged: true,
        ..CommitOptions::default()
    };
    let first = scratch.commit_with(&options);
    let blob = crate::digest::Digest::of(b"one").to_hex();
    let objects = scratch.dir.path().join("repo/objects");
    let object = objects.join(&blob[..2]).join(&blob[2..]);
    fs::remove_file(&object).unwrap();
    let again = scratch.commit_with(&options);
    assert_eq!(again.commit, first.commit);
    assert_eq!((object.exists(), again.stats.blobs_added), (true, 1));
    assert_eq!(scratch.commit_with(&options).stats.blobs_added, 0);
    // And one that consumes its source leaves what it had in the store.
    fs::remove_file(&object).unwrap();
    let adopting = CommitOptions {
        adopt: true,
        ..options
    };
    assert_eq!(scratch.commit_with(&adopting).commit, first.commit);
    assert!(object.exists() && !scratch.path("file").exists());
}

#[test]
fn a_damaged_cache_is_no_cache_and_may_be_deleted() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let file = scratch.dir.path().join("repo/cache/stat");
    let whole = fs::read(&file).unwrap();
    assert!(decode(&whole[..]).is_some());
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        assert!(decode(&bytes[..]).is_none(), "byte {at}");
        assert!(decode(&whole[..at]).is_none(), "cut at {at}");
    }
    let longer = [&whole[..], b"x"].concat();
    assert!(decode(&longer[..]).is_none());
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    scratch.check();
    fs::remove_dir_all(file.parent().unwrap()).unwrap();
    scratch.check();
}

#[test]
fn what_no_commit_came_across_for_long_is_forgotten() {
    let scratch = Scratch::new();
    if !remembered(&scratch, "file", "one") {
        return;
    }
    let stat = Stat::from(rustix::fs::lstat(scratch.path("file")).unwrap());
    // Its inode's number must not become another's.
    fs::rename(scratch.path("file"), scratch.dir.path().join("kept")).unwrap();
    for round in 0..MAX_IDLE + 2 {
        assert_eq!(
            scratch.load().get(&Stamp::of(&stat)).is_some(),
            round <= MAX_IDLE,
            "{round}"
        );
        assert!(remembered(&scratch, "other", &round.to_string()));
    }
}

fn record() -> impl Strategy<Value = Record> {
    (
        any::<[u64; 3]>(),
        any::<[i64; 2]>(),
        any::<[u32; 4]>(),
        any::<[u8; 32]>(),
        proptest::option::of(any::<[u8; 32]>()),
    )
        .prop_map(
            |([device, ino, size], [mtime, ctime], [mtime_ns, ctime_ns, idle, _], digest, verity)| Record {
                device,
                stamp: Stamp {
                    ino,
                    size,
                    mtime,
                    ctime,
                    mtime_nsec: mtime_ns,
                    ctime_nsec: ctime_ns,
                },
                idle,
                xattrs: 0,
                blob: BlobId::new(crate::digest::Digest::from_bytes(digest)),
                verity: verity.map(VerityDigest::from_bytes),
            },
        )
}

proptest! {
    #[test]
    fn what_is_written_is_read(mut records in proptest::collection::vec(record(), 0..20)) {
        records.sort_by_key(Record::key);
        records.dedup_by_key(|record| record.key());
        let mut table = XattrTable::default();
        table.intern(&Xattrs::new()).unwrap();
        table.intern(&[(b"user.a".to_vec(), b"b".to_vec())].into_iter().collect()).unwrap();
        let mut bytes = Vec::new();
        super::record::encode_all(&mut bytes, &records, &table).unwrap();
        let (read, sets) = decode(&bytes[..]).unwrap();
        prop_assert_eq!(read, records);
        prop_assert_eq!(sets.get(1), table.get(1));
        prop_assert_eq!(sets.get(2), None);
    }

    #[test]
    fn runs_are_merged_into_one_order(records in proptest::collection::vec(record(), 1..40), rounds in 1..20usize, run in 1..600usize) {
        let dir = tempfile::tempdir().unwrap();
        let place = Dir::open_ambient(dir.path()).unwrap();
        let mut fresh = super::fresh::Fresh::with_runs_of(run);
        let mut all = std::collections::BTreeMap::new();
        // Many inodes from few records: runs are long.
        for round in 0..rounds {
            for record in &records {
                let mut record = *record;
                record.device %= 3;
                record.stamp.ino = record.stamp.ino.rotate_left(round as u32 % 7);
                fresh.push(record, || place.create_unnamed(0o600).map_err(std::io::Error::other)).unwrap();
                all.insert(record.key(), ());
            }
        }
        prop_assert_eq!(fresh.len(), rounds * records.len());
        fresh.sort();
        let mut merged = fresh.merged().unwrap();
        let mut keys = Vec::new();
        while let Some(record) = merged.take().unwrap() {
            keys.push(record.key());
        }
        prop_assert_eq!(keys, all.into_keys().collect::<Vec<_>>());
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let with_magic = [b"ATOMSTC\x02", &bytes[..]].concat();
        prop_assert!(decode(&bytes[..]).is_none());
        let _ = decode(&with_magic[..]);
    }
}

#[test]
fn nothing_else_waits_for_the_question_whether_anybody_writes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file");
    fs::write(&path, "x").unwrap();
    let reader = fs::File::open(&path).unwrap();
    let _ = nobody_writes(&reader);
    // The lease is given back: who opens the file now does not wait for its end.
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(fs::File::options().write(true).open(path).is_ok()));
    assert!(receiver.recv_timeout(Duration::from_secs(20)).unwrap());
}
