//! Invariant: what is deployed as sealed by a key boots with that key, as the image that it names; what boots was signed, and says so of
//! that image; a key that counts where a tree is deployed counts where it boots. The first byte says what the input is.
#![no_main]

use std::sync::LazyLock;

use atomos_fuzz::seals::{self, Kind};
use libatomos::composefs::Seal;
use libatomos::sign::{PublicKey, Signer as _};
use libfuzzer_sys::fuzz_target;

use seal::Keys;

// What `atomos-prepare-root` reads seals with. It is a program and no library, so its sources are taken as they are.
#[allow(dead_code)]
#[path = "../../atomos-prepare-root/src/error.rs"]
mod error;
/// Says nothing, where the program writes to the kernel's log.
mod log {
    pub(crate) enum Level {
        Warning,
    }

    pub(crate) fn say(_: Level, _: &str) {}
}
mod verity {
    pub(crate) const DIGEST_LEN: usize = 32;
}
#[allow(dead_code)]
#[path = "../../atomos-prepare-root/src/seal.rs"]
mod seal;

/// A directory of keys, like that of an initramfs, and the keys that it begins with.
struct Initramfs {
    dir: tempfile::TempDir,
    keys: Keys,
}

impl Initramfs {
    /// Reads the keys again, with `text` for one.
    fn with(text: &[u8]) -> Keys {
        let path = HERE.dir.path().join("seal.pub");
        std::fs::write(&path, text).expect("the directory can be written to");
        HERE.load()
    }

    fn load(&self) -> Keys {
        Keys::load(self.dir.path().to_str().expect("its name is text"))
    }
}

static HERE: LazyLock<Initramfs> = LazyLock::new(|| {
    let dir = tempfile::tempdir_in(libatomos::testing::memory_dir()).expect("there is a directory");
    let path = dir.path().join("seal.pub");
    std::fs::write(path, seals::key().public().to_pem()).expect("the directory can be written to");
    let mut here = Initramfs {
        dir,
        keys: Keys::default(),
    };
    here.keys = here.load();
    here
});

/// Has both read an envelope of which only `payload` was signed, or what was signed before where that is `None`.
fn check(envelope: &[u8], payload: Option<&[u8]>) {
    let deployed = Seal::decode(envelope);
    let booted = HERE.keys.verify(envelope);
    if let Ok(seal) = &deployed {
        assert_eq!(seal.encode(), envelope);
        let key = seals::key().public();
        match (seal.signer_among([&key]), &booted) {
            (Some(_), Ok(sealed)) => assert_eq!(&sealed.image, seal.sealed.image.as_bytes()),
            (Some(_), Err(error)) => panic!("it is deployed and does not boot: {error}"),
            // Where it boots nobody looks at whose a signature says to be.
            (None, _) => {}
        }
    }
    if let Ok(sealed) = &booted {
        assert_eq!(&sealed.key, seals::key().public().as_bytes());
        match payload {
            Some(payload) => {
                let image = libatomos::verity::VerityDigest::from_bytes(sealed.image);
                let begin = format!("{{\"format\":1,\"image\":\"{image}\"");
                assert!(payload.starts_with(begin.as_bytes()), "another image was signed");
            }
            None => assert_eq!(&sealed.image, seals::image().as_bytes()),
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = Kind::split(bytes) else {
        return;
    };
    match kind {
        Kind::Envelope => check(bytes, None),
        Kind::Payload => check(&seals::signed(bytes), Some(bytes)),
        Kind::Signed => {
            if let Some((envelope, payload)) = seals::with_signature(bytes) {
                check(&envelope, Some(&payload));
            }
        }
        Kind::Commit => {
            let Some(commit) = seals::commit(bytes) else {
                return;
            };
            if let Ok(Some(seal)) = Seal::of_commit(&commit) {
                assert_eq!(seal.sealed.tree, commit.root);
                assert_eq!(seal.sealed.version, commit.version);
                let image = libatomos::composefs::image_verity(&commit).expect("it was read before");
                assert_eq!(image, Some(seal.sealed.image));
            }
        }
        Kind::Key => {
            let Ok(key) = std::str::from_utf8(bytes)
                .map_err(drop)
                .and_then(|text| PublicKey::parse(text).map_err(drop))
            else {
                return;
            };
            let keys = Initramfs::with(bytes);
            let refused = keys.verify(b"").expect_err("that is no seal").to_string();
            assert!(
                !refused.contains("has no key"),
                "a key does not count where the tree boots"
            );
            if key == seals::key().public() {
                let seal = seals::seal("13.1", &[&seals::key()]).encode();
                keys.verify(&seal).expect("it is the key");
            }
        }
    }
});
