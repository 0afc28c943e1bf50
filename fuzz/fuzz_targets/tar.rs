//! Invariant: an archive is refused, or every path in it stays in the tree, and stands there once. The first byte says how paths are
//! taken; headers whose checksum is wrong get a right one, so that it is not in the way.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((first, archive)) = bytes.split_first() else {
        return;
    };
    let archive = libatomos::testing::decode::with_checksums(archive);
    libatomos::testing::decode::check_archive(&archive, first % 2 == 1);
});
